"""The example of an image: its command as process 1, its root read-only, SIGTERM; and its manifests.

No container engine is needed, and none is there as a rule: the namespaces and mounts that one would
make are made by ``unshare`` and ``mount``, and the command, variables and folders are the
Dockerfile's own.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aioaudit import settings
from tests.conftest import ROOT, clean_environ
from tests.servers import free_port
from tests.waiting import PATIENCE, wait_until

FOLDER = ROOT / "examples" / "container"

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private"]

IMAGE = """\
set -e
mount --rbind / root
mount -o remount,bind,ro root
mount -t tmpfs -o size=8m,mode=0700 tmpfs "root$PWD/logs"
set +e
unshare --pid --fork --kill-child chroot root sh -c "$CONTAINER" container "$@"
status=$?
cp root"$PWD"/logs/* kept/
exit $status
"""
"""A root that is read-only but for a folder in memory, and in it, as process 1, the command."""

CONTAINER = """\
mount -t proc proc /proc && cd "$FOLDER" || exit 99
if touch /written 2>/dev/null; then echo "the root can be written to"; exit 98; fi
exec "$@"
"""


def dockerfile() -> dict[str, list[str]]:
    """What the last stage of the Dockerfile says, by instruction."""
    text = (FOLDER / "Dockerfile").read_text()
    stage = text[text.rindex("\nFROM ") :].replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for name, rest in re.findall(r"^([A-Z]+) (.*)$", stage, re.MULTILINE):
        found.setdefault(name, []).append(rest)
    return found


def variables() -> dict[str, str]:
    """What ``ENV`` sets."""
    return dict(pair.split("=", 1) for line in dockerfile()["ENV"] for pair in shlex.split(line))


def may_mount(folder: Path) -> bool:
    """Whether such a root can be made here, with the folder for logs in it."""
    for name in ("root", "logs", "kept"):
        (folder / name).mkdir(exist_ok=True)
    try:
        tried = subprocess.run(
            [*UNSHARE, "sh", "-c", IMAGE, "image", "true"],
            cwd=folder,
            env=clean_environ(CONTAINER=CONTAINER, FOLDER="/"),
            capture_output=True,
            timeout=PATIENCE,
        )
    except FileNotFoundError:
        return False
    return tried.returncode in (0, 1)  # 1: there is no log to be kept


def get(port: int, path: str) -> int:
    """The status of an answer, 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:  # it is the answer itself
            return error.code
    except (urllib.error.URLError, ConnectionError):
        return 0


def inner(process: subprocess.Popen[str]) -> int:
    """The process 1 of the container, as it is numbered outside."""
    pid = process.pid
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def test_the_image_runs_as_process_1_on_a_read_only_root_and_its_log_is_whole_after_sigterm(
    audited_python: str, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    if not may_mount(tmp_path):
        pytest.skip("needs namespaces, and mounts in them")
    said = dockerfile()
    entry, arguments = json.loads(said["ENTRYPOINT"][0]), json.loads(said["CMD"][0])
    assert entry[0] == "python"
    port = free_port()
    upstream = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "upstream.py"), "--hang", "reviews"],
        env=clean_environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with upstream:
        try:
            assert upstream.stdout is not None
            url = upstream.stdout.readline().split()[-1]
            arguments = [url if each.startswith("http") else each for each in arguments]
            arguments[-2:] = ["127.0.0.1", str(port)]
            environ = {
                name: value.replace("/logs/", f"{tmp_path}/logs/")
                for name, value in variables().items()
            }
            process = subprocess.Popen(
                [*UNSHARE, "sh", "-c", IMAGE, "image", audited_python, *entry[1:], *arguments],
                cwd=tmp_path,
                env=clean_environ(CONTAINER=CONTAINER, FOLDER=str(ROOT / "examples"), **environ),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            with process:
                try:
                    wait_until(lambda: process.poll() is not None or get(port, "status") == 200)
                    assert process.poll() is None, process.communicate()
                    assert get(port, "page/teapot") == 504  # the upstream hangs
                    subprocess.run(["kill", "-TERM", str(inner(process))], check=True)
                    printed, _ = process.communicate(timeout=PATIENCE)
                finally:
                    process.kill()
        finally:
            upstream.kill()
    assert process.returncode == 128 + 15, printed
    assert "aioaudit" not in printed
    [log] = (tmp_path / "kept").iterdir()
    assert log.name == "aioaudit-1.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert (lines[0]["event"], lines[0]["pid"]) == ("process.start", 1)
    assert (lines[-1]["event"], lines[-1]["dropped"]) == ("process.end", 0)
    answers = {}
    for task in ("Task-1", "reviews of teapot"):
        done = subprocess.run(
            [audited_python, "-m", "aioaudit", "why", str(log), "--task", task, "--json"],
            env=clean_environ(),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
        answers[task] = json.loads(done.stdout.splitlines()[-1])
    assert answers["Task-1"]["root"]["signal"] == "SIGTERM"
    assert answers["reviews of teapot"]["root"]["what"] == "deadline"
    # What the page on Docker says of sizes.
    lives = [line for line in log.read_text().splitlines() if "task.create" in line]
    assert sum(map(len, lives)) / len(lives) < 400


@pytest.mark.any_python
def test_the_dockerfile_and_the_manifests_say_the_same() -> None:
    yaml = pytest.importorskip("yaml")
    said = dockerfile()
    wanted = settings.from_environ(variables())
    assert wanted is not None
    assert (wanted.exporters, wanted.jsonl_path) == (("jsonl",), "/logs/aioaudit-{pid}.jsonl")
    assert "/logs" in " ".join(said["RUN"])
    manifests = list(yaml.safe_load_all((FOLDER / "shop.yaml").read_text()))
    spec = manifests[0]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert container["args"] == json.loads(said["CMD"][0])
    assert f":{container['image'].partition(':')[2]}" == ":1"
    assert spec["securityContext"]["runAsUser"] == int(said["USER"][0])
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["ports"][0]["containerPort"] == int(said["EXPOSE"][0])
    environ = {each["name"]: each.get("value", "shop-1") for each in container["env"]}
    path = environ["AIOAUDIT_JSONL_PATH"].replace("$(POD)", environ["POD"])
    wanted = settings.from_environ({**environ, "AIOAUDIT_JSONL_PATH": path})
    assert wanted is not None
    assert wanted.jsonl_path == "/logs/shop-1-{pid}.jsonl"
    [mount] = container["volumeMounts"]
    assert mount["mountPath"] == "/logs"
    [volume] = spec["volumes"]
    assert volume["name"] == mount["name"]
    # A log that is as large as it may be is no reason to evict the pod for its storage.
    sizes = (volume["emptyDir"]["sizeLimit"], container["resources"]["limits"]["ephemeral-storage"])
    assert [int(size.removesuffix("Mi")) for size in sizes] == [256, 320]


@pytest.mark.any_python
def test_kubernetes_takes_the_manifests() -> None:
    yaml: Any = pytest.importorskip("yaml")
    kubernetes: Any = pytest.importorskip("kubernetes_validate")
    pages = (ROOT / "docs" / "quick-starts" / "kubernetes.md").read_text()
    [quick_start] = re.findall(r"```yaml\n(.*?)```", pages, re.DOTALL)
    for text in ((FOLDER / "shop.yaml").read_text(), quick_start):
        manifests = list(yaml.safe_load_all(text))
        assert manifests
        for each in manifests:
            kubernetes.validate(each, kubernetes.latest_version(), strict=True)
    wrong = next(yaml.safe_load_all(quick_start))
    wrong["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(wrong, kubernetes.latest_version(), strict=True)
