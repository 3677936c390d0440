"""ops/kubernetes against the Procfile and the settings."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ops
from worker import json_queue

FOLDER = ops.OPS / "kubernetes"
IMAGE = "redirect-worker:0.1.0"
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"
NO_KUBECTL = "kubectl is not on this machine"
KUSTOMIZATION = FOLDER / "kustomization.yaml"


def manifests(folder: Path = FOLDER) -> list[Any]:
    """All that the kustomization of the folder names."""
    (kustomization,) = ops.yaml_documents(folder / "kustomization.yaml")
    return [one for file in kustomization["resources"] for one in ops.yaml_documents(folder / file)]


def of_kind(*kinds: str) -> dict[str, Any]:
    """Component -> its manifest of one of these kinds."""
    found = [one for one in manifests() if one["kind"] in kinds]
    return {one["metadata"]["labels"][COMPONENT]: one for one in found}


WORKLOADS = of_kind("Deployment", "Job")
DEPLOYMENTS = of_kind("Deployment")
CONFIGURED = {one["metadata"]["name"]: set(one["data"]) for one in manifests() if one["kind"] == "ConfigMap"}
SECRET = {one["metadata"]["name"]: set(one["stringData"]) for one in ops.yaml_documents(FOLDER / "secret.example.yaml")}
every_workload = pytest.mark.parametrize("component", list(ops.COMMANDS))
every_deployment = pytest.mark.parametrize("component", ops.PROCESSES)


def pod(component: str) -> Any:
    return WORKLOADS[component]["spec"]["template"]["spec"]


def container(component: str) -> Any:
    """The one container of its pod."""
    (found,) = pod(component)["containers"]
    return found


def labels(component: str) -> dict[str, str]:
    return {NAME: "redirect-worker", COMPONENT: component}


def test_there_is_a_workload_for_each_line_of_the_procfile() -> None:
    """A Job for the release, a Deployment for each process, and no file that the kustomization leaves out."""
    assert set(WORKLOADS) == set(ops.COMMANDS)
    assert {name for name, one in WORKLOADS.items() if one["kind"] == "Job"} == {"release"}
    (kustomization,) = ops.yaml_documents(KUSTOMIZATION)
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml", "secret.yaml"}
    assert set(kustomization["resources"]) == files
    assert [one["name"] for one in kustomization["images"]] == [IMAGE.partition(":")[0]]
    assert "namespace" not in {*kustomization, *(key for one in manifests() for key in one["metadata"])}


@every_workload
def test_a_container_runs_its_line_of_the_procfile_and_is_locked_down(component: str) -> None:
    """By arguments, so that tini stays process 1; not as root, without rights, with nothing to write to but /tmp."""
    found = container(component)
    assert found["args"] == ops.COMMANDS[component]
    assert "command" not in found
    assert (found["name"], found["image"]) == (component, IMAGE)
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    context = pod(component)["securityContext"]
    assert (context["runAsNonRoot"], context["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
    user = f"USER {context['runAsUser']}:{context['runAsGroup']}\n"
    assert user in (ops.OPS / "docker/Dockerfile").read_text()
    assert pod(component)["automountServiceAccountToken"] is False
    # A Service named redirect-flower would set REDIRECT_FLOWER_PORT to tcp://...
    assert pod(component)["enableServiceLinks"] is False
    assert found["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
    assert set(found["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in found["resources"]["limits"]


def given(component: str) -> Iterator[str]:
    """The variables that a container gets, each of which is where it says."""
    found = container(component)
    for one in found["env"]:
        reference = one["valueFrom"]["secretKeyRef"]
        assert (reference["name"], reference["key"]) == ("redirect-worker", one["name"])
        assert one["name"] in SECRET["redirect-worker"]
        yield one["name"]
    for source in found["envFrom"]:
        known = {"configMapRef": CONFIGURED, "secretRef": SECRET}
        for kind, reference in source.items():
            yield from known[kind][reference["name"]]


@every_workload
def test_a_container_gets_what_it_needs_and_no_other_secret(component: str) -> None:
    """Every variable is a setting, and comes from where there is one."""
    variables = list(given(component))
    assert [name for name in variables if not ops.is_known(name)] == []
    assert set(variables) & ops.SECRETS == ops.needs()[component]


def test_nobody_gets_a_secret_that_is_not_asked_for() -> None:
    """Each key of the example is some container's variable."""
    used = {name for component in ops.COMMANDS for name in given(component)}
    assert {name for keys in [*SECRET.values(), *CONFIGURED.values()] for name in keys} == used


@every_deployment
def test_selectors_find_the_pods_that_they_mean(component: str) -> None:
    """Of the Deployment, its budget, its spread, and the Service: one component each."""
    deployment = DEPLOYMENTS[component]
    assert deployment["metadata"]["labels"] == labels(component)
    assert deployment["spec"]["selector"]["matchLabels"] == labels(component)
    assert deployment["spec"]["template"]["metadata"]["labels"] == labels(component)
    assert deployment["metadata"]["name"] == f"redirect-{component}"
    for spread in pod(component).get("topologySpreadConstraints", []):
        assert spread["labelSelector"]["matchLabels"] == labels(component)


def test_budgets_and_the_service_are_of_what_there_is_more_than_one() -> None:
    """A budget for one pod alone would stop a machine from being emptied."""
    budgets = of_kind("PodDisruptionBudget")
    assert set(budgets) == {"worker", "intake", "web"}
    for component, budget in budgets.items():
        assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels(component)}}
        assert DEPLOYMENTS[component]["spec"].get("replicas", 2) > 1
    (service,) = of_kind("Service").values()
    assert service["spec"]["selector"] == labels("web")
    ports = {port["name"] for port in container("web")["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports


@every_deployment
def test_a_pod_is_waited_for_as_told(component: str) -> None:
    """The patience of the page, and what the gateway waits for its last requests before."""
    before = container(component).get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
    waits = float(before["exec"]["command"][1])
    assert pod(component)["terminationGracePeriodSeconds"] - waits == ops.patience()[component]


def test_probes_ask_the_process_and_no_server() -> None:
    """An outage of the broker restarts nobody; the gateway is called by a name that it answers to."""
    for component in ("worker", "intake", "beat"):
        assert container(component)["livenessProbe"]["exec"] == {"command": ["alive"]}
        probe = container(component)["livenessProbe"]
        # A connection that hangs is given up after seconds: a minute and a half without waking up is no wait.
        assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= 90
    localhost = [{"name": "Host", "value": "localhost"}]
    web = container("web")
    assert web["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http", "httpHeaders": localhost}
    assert web["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http", "httpHeaders": localhost}
    # Flower listens on 127.0.0.1, where kubelet does not reach it.
    for kind in ("livenessProbe", "readinessProbe"):
        assert "http://127.0.0.1:5555/healthcheck" in container("flower")[kind]["exec"]["command"][-1]


def test_one_beat_and_one_flower_and_workers_as_many_as_their_scaler_says() -> None:
    """A Deployment that is scaled names no number: applying it again would undo the scaler."""
    for component in ("beat", "flower"):
        assert DEPLOYMENTS[component]["spec"]["replicas"] == 1
        assert DEPLOYMENTS[component]["spec"]["strategy"] == {"type": "Recreate"}
    assert "replicas" not in DEPLOYMENTS["worker"]["spec"]
    (scaler,) = of_kind("HorizontalPodAutoscaler").values()
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "redirect-worker",
    }
    text = (FOLDER / "worker.yaml").read_text()
    assert f"({scaler['spec']['maxReplicas']} + 1) workers" in text
    (told,) = re.findall(r"At most (\d+) connections", text)
    assert f"may use {told} while" in ops.DOCUMENT.read_text()


def test_the_network_is_open_for_what_each_process_needs() -> None:
    """One policy closes everything; the one of a server is for those that have its URL."""
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests() if one["kind"] == "NetworkPolicy"}
    closed = policies["redirect-worker"]
    assert closed["podSelector"] == {"matchLabels": {NAME: "redirect-worker"}}
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in closed
    for name, url in (("database", "DATABASE_URL"), ("broker", "BROKER_URL"), ("cache", "REDIS_URL")):
        (chosen,) = policies[f"redirect-{name}"]["podSelector"]["matchExpressions"]
        assert set(chosen["values"]) == {component for component in ops.COMMANDS if url in ops.needs()[component]}
    assert policies["redirect-web"]["podSelector"] == {"matchLabels": labels("web")}
    assert len(policies) == 5


def test_keda_looks_at_the_queues_that_there_are() -> None:
    """Workers by `redirects`, intakes by the JSON queue; never none of them."""
    objects = {one["metadata"]["name"]: one for one in manifests(FOLDER / "keda")}
    authentication = objects.pop("redirect-broker")
    (secret,) = authentication["spec"]["secretTargetRef"]
    assert (secret["name"], secret["key"]) == ("redirect-worker", "BROKER_URL")
    queues = {"redirect-worker": "redirects", "redirect-intake": json_queue.QUEUE.name}
    assert set(objects) == set(queues)
    for name, one in objects.items():
        (trigger,) = one["spec"]["triggers"]
        assert one["spec"]["scaleTargetRef"] == {"name": name}
        assert trigger["metadata"]["queueName"] == queues[name]
        assert trigger["authenticationRef"] == {"name": "redirect-broker"}
        assert 0 < one["spec"]["minReplicaCount"] < one["spec"]["maxReplicaCount"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason=NO_KUBECTL)
@pytest.mark.parametrize("keda", [False, True])
def test_kustomize_builds_it(tmp_path: Path, keda: bool) -> None:
    """With the registry's image everywhere. With KEDA its objects take the place of the scaler and of a number."""
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    if keda:
        text = KUSTOMIZATION.read_text().replace("#components: [keda]", "components: [keda]")
        (folder / "kustomization.yaml").write_text(text)
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    built = list(yaml.safe_load_all(done.stdout))
    images = {
        one["spec"]["template"]["spec"]["containers"][0]["image"] for one in built if "template" in one.get("spec", {})
    }
    assert images == {f"registry.example.com/{IMAGE}"}
    kinds = [one["kind"] for one in built]
    assert kinds.count("ScaledObject") == (2 if keda else 0)
    assert kinds.count("HorizontalPodAutoscaler") == (0 if keda else 1)
    numbers = {one["metadata"]["name"] for one in built if "replicas" in one.get("spec", {})}
    assert ("redirect-intake" in numbers) is not keda
