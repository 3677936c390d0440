-- Two roles: one that migrates and owns the tables, and one that works, reads and writes rows and does nothing else.
-- As a superuser, once, before the first migration:
--   psql --set=database=redirects --set=owner=redirect_owner --set=runner=redirect_runner \
--       --dbname=redirects --file=ops/postgresql/roles.sql
-- Then give each its password with \password. tests/chaos/test_least_privilege.py runs the service so.
CREATE ROLE :"owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
CREATE ROLE :"runner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;

-- Nobody else comes in, and nobody makes temporary tables.
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"owner", :"runner";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"runner";

-- For every table that a migration will make. Their ids are identity columns, which need no right on a sequence, and
-- the one function, enqueue_redirect, is for producers: GRANT EXECUTE ON FUNCTION enqueue_redirect(json) TO theirs.
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"runner";
