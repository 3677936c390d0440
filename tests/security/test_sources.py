"""What can be read off the source: nothing unpickles, nothing runs as code, SQL and Lua are written, never built."""

import ast
from collections.abc import Iterator

import pytest

from tests.security.sources import Module, called, fixed, modules

# The Django cache of Pilito holds pickles. Only plain dicts are read of them: opcode by opcode, and no class is found.
# (tests/security/test_no_pickle.py)
PICKLES = {"worker.hosts.pilito.flag": "pickle"}
DESERIALIZERS = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "jsonpickle", "yaml", "msgpack"}
CODE = {"eval", "exec", "compile", "__import__"}

EXECUTORS = ("text", "Prepared", "execute", "executemany", "exec_driver_sql", "scalar", "scalars", "scalar_one")
LUA = ("eval", "evalsha", "eval_ro", "script_load", "register_script")
# Functions that are handed a statement or a script, and where: whoever calls them is held to the same.
CARRIERS = {"_rows": 1, "run": 0, "_eval": 0, "build": 0}
HANDED_ON = {
    "worker.db.borrowed": ("str(statement.compile(", "sql"),
    "worker.db.prepared": ("self._plain", "self._prepare", "self._execute"),
    "worker.redis_client": ("script",),
    "worker.demo": ("text(sql)", "sql", "counted"),
    # The names in a mapping that a migration writes out.
    "worker.db.migrations.indexes": (
        "f'DROP INDEX CONCURRENTLY IF EXISTS {name}'",
        "f'CREATE INDEX CONCURRENTLY {name} ON {columns}'",
    ),
    # The names of tables and columns in a mapping of the module.
    "worker.db.counters": (
        "text(_COUNT.format(",
        "_COUNT.format(",
        "text(_SINCE.format(",
        "_SINCE.format(",
        "statement",
    ),
    # The schema that alembic's own table is in, as PostgreSQL quotes it.
    "worker.db.migrations.versions.0004_enqueue_redirect": ("FUNCTION.replace(",),
}

every_module = pytest.mark.parametrize("module", modules().values(), ids=lambda module: module.name)


@every_module
def test_nothing_deserializes_objects(module: Module) -> None:
    """No pickle and nothing that makes objects of bytes, but for the one door to what a host has pickled."""
    found = {name.partition(".")[0] for name in module.imports()} & DESERIALIZERS
    assert found <= {PICKLES.get(module.name)}


@every_module
def test_nothing_runs_text_as_code(module: Module) -> None:
    """No eval, exec or compile of Python's own (`re.compile` and Redis's `eval` are methods)."""
    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
    assert [ast.unparse(call) for call in calls if isinstance(call.func, ast.Name) and call.func.id in CODE] == []


@every_module
def test_sql_and_lua_are_written_and_never_built(module: Module) -> None:
    """Each statement and each script is a literal, or made of literals and constants alone: values are parameters."""
    known = HANDED_ON.get(module.name, ())
    built = [ast.unparse(each) for each in _statements(module) if not fixed(each, module)]
    assert [each for each in built if not each.startswith(known)] == []


def _statements(module: Module) -> Iterator[ast.expr]:
    for call in module.calls(*EXECUTORS, *LUA, *CARRIERS):
        name = called(call)
        if name == "Prepared":
            yield from call.args
        elif name == "run" and not _is_script(call, module):
            continue
        else:
            at = CARRIERS.get(name, 0)
            yield from call.args[at : at + 1]


def _is_script(call: ast.Call, module: Module) -> bool:
    """Whether it is `worker.redis_client.run`, and not another function of this name."""
    return isinstance(call.func, ast.Name) and module.imported.get("run", ("",))[0] == "worker.redis_client"


def test_the_statements_are_found() -> None:
    """As many as there are at least: a rule that finds nothing forbids nothing."""
    found = [statement for module in modules().values() for statement in _statements(module)]
    assert len(found) > 150


@pytest.mark.parametrize(
    "built",
    [
        'connection.execute(text(f"SELECT {name}"))',
        'connection.execute(text("SELECT " + name))',
        'connection.execute(text("SELECT %s" % name))',
        'connection.execute(text("SELECT {}".format(name)))',
        "connection.exec_driver_sql(name)",
        'client().eval("return " + name, 0)',
        "Prepared('a', SQL + name)",
        "connection.execute(text(CHANGING))",
    ],
)
def test_a_statement_that_is_built_is_seen(built: str) -> None:
    """In each of the ways that text is made of values."""
    tree = ast.parse(f"SQL = 'SELECT '\ndef f(name):\n    {built}")
    module = Module("example", tree, {"SQL": [ast.Constant("SELECT ")], "CHANGING": [ast.Constant(1)] * 2})
    assert not all(fixed(each, module) for each in _statements(module))
