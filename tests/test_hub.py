"""Checkpoints on the hub: from a cache as the library lays it out, and over HTTP from and to a small hub here."""
import base64
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants
from omegaconf import OmegaConf

from config.schema import PretrainConfig
from dataset.common import dataset_fingerprint
from evaluate import score
from helpers import TINY_ARCH, evaluate_config, metric_lines, pretrain_config, write_tiny_dataset
from pretrain import train
from utils.distributed import World
from utils.hub import downloaded, repository_of, upload

SHA = "0123456789abcdef0123456789abcdef01234567"


def config_of(folder: Path, run_dir: Path, *overrides: str) -> PretrainConfig:
    return pretrain_config(f"data_paths=[{folder / 'data'}]", f"checkpoint.path={run_dir}", f"log_dir={folder}",
                           *TINY_ARCH, "evaluators=[]", "global_batch_size=16", "epochs=1", "use_wandb=false",
                           *overrides)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_dataset(folder / "data")
    return train(config_of(folder, folder / "run", "ema=True", "lr=1e-2", "lr_warmup_steps=0", "ema_rate=0.5"), World())


def cached(cache: Path, files: dict[str, Path], repository: str = "owner/name", revision: str = "main") -> None:
    """A snapshot as the library caches it: blobs by hash, linked under their names, a revision as a file."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for part in ("refs", "blobs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(SHA)
    for i, (name, file) in enumerate(files.items()):
        shutil.copy(file, folder / "blobs" / f"{i:040x}")
        link = folder / "snapshots" / SHA / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / "blobs" / f"{i:040x}")


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """The library's cache, and no network. (It reads its environment when it is imported.)"""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_without_the_library_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for use in (lambda: downloaded("hf://owner/name"), lambda: upload(tmp_path, "owner/name")):
        with pytest.raises(ValueError, match="need huggingface_hub, which is not installed; pip install"):
            use()


def test_a_cached_run_is_scored_and_trained_further_offline(run_dir, cache, tmp_path):
    cached(cache, {"best.ckpt": run_dir / "best.ckpt"})
    cached(cache, {"sub/step_7": run_dir / "best.ckpt", "step_9": run_dir / "config.yaml"}, "owner/other", "v1")
    logged = metric_lines(run_dir)[-1]["val/loss"]
    for i, reference in enumerate(("hf://owner/name", f"hf://owner/name@{SHA}", "hf://owner/other@v1/sub/step_7")):
        metrics = score(evaluate_config(f"checkpoint={reference}"), World())
        found = tmp_path / "checkpoints" / ("owner--other" if i == 2 else "owner--name") / "evaluation/metrics.json"
        assert json.loads(found.read_text()) == metrics and metrics["val/loss"] == pytest.approx(logged, rel=1e-5)
        found.unlink()
    # Trained further at a rate of zero, it is what it was.
    further = train(config_of(run_dir.parent, tmp_path / "further", "load_checkpoint=hf://owner/name", "lr=1e-30",
                              "weight_decay=0", "puzzle_emb_lr=1e-30"), World())
    assert metric_lines(further)[-1]["val/loss"] == pytest.approx(logged, rel=1e-5)


def test_what_is_not_cached_is_named_offline(cache):
    with pytest.raises(ValueError, match=r"^hf://owner/name is not in the cache \(.*cache\) and cannot be downloaded "
                       r"\(.*\); check the name, the network and HF_HUB_OFFLINE, or give a local path$"):
        score(evaluate_config("checkpoint=hf://owner/name"), World())


def test_an_upload_that_fails_says_where_its_files_are(run_dir, cache):
    with pytest.raises(ValueError, match=r"upload to owner/name failed \(.*offline.*\); what .* is in out/hub: .*`hf"):
        score(evaluate_config(f"checkpoint={run_dir}", "export=hub", "hub_repo=owner/name", "output_dir=out"), World())
    card = Path("out/hub/README.md").read_text()
    fingerprint = dataset_fingerprint(run_dir.parent / "data")
    for words in (f"data | trained on | {fingerprint} |", f"data | scored on | {fingerprint} |", "| val/loss | ",
                  "checkpoint=hf://owner/name", "load_checkpoint=hf://owner/name", "\n  hidden_size: 16\n"):
        assert words in card
    _, front, _ = card.split("---\n", 2)
    assert OmegaConf.to_container(OmegaConf.create(front))["tags"] == ["tiny-recursive-model", "trm"]


@pytest.mark.parametrize("reference", ["hf://owner", "hf://", "hf://owner/na me", "hf://owner/name@"])
def test_a_reference_of_another_form_is_refused(reference):
    with pytest.raises(ValueError, match="must have the form hf://owner/name, "):
        downloaded(reference)
    assert repository_of("hf://owner/name.v2@main/a/step_1") == "owner/name.v2"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as an upload and a download use; files by path, of one repository."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}/owner/name"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.asked.append(self.path)
        if self.path.endswith("/preupload/main"):
            self.answer({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                   for file in json.loads(body)["files"]]})
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.address}/commit/1", "commitOid": SHA, "success": True})
        else:
            self.answer({"url": self.address, "name": "owner/name"})

    def do_GET(self):
        self.asked.append(self.path)
        if "/resolve/" in self.path:
            self.answer(self.files[self.path.rpartition(f"{SHA}/")[2]])
        else:
            self.answer({"id": "owner/name", "sha": SHA, "siblings": [{"rfilename": name} for name in self.files]}
                        if "/tree/" not in self.path else
                        [{"type": "file", "path": name, "size": len(content), "oid": f"{i:040x}"}
                         for i, (name, content) in enumerate(self.files.items())])

    do_HEAD = do_GET

    def answer(self, content) -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        for name, value in (("Content-Length", len(content)), ("X-Repo-Commit", SHA), ("ETag", f'"{hash(content)}"')):
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch) -> Iterator[None]:
    """The library talks to a server here."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield
    server.shutdown()


def test_a_run_is_uploaded_with_its_card_and_downloaded_once(run_dir, cache, hub, monkeypatch, capsys):
    before = score(evaluate_config(f"checkpoint={run_dir}", "export=hub", "hub_repo=owner/name", "output_dir=out"),
                   World())
    assert capsys.readouterr().out.splitlines()[-1].startswith("uploaded: ")
    assert set(Hub.files) == {"README.md", "config.yaml", "identifiers.json", "metadata.json",
                              "model.safetensors"}
    assert all(Hub.files[name] == Path("out/hub", name).read_bytes() for name in Hub.files)
    Hub.asked.clear()
    assert score(evaluate_config("checkpoint=hf://owner/name"), World()) == before
    fetched = {path.rpartition("/")[2] for path in Hub.asked if "/resolve/" in path}
    assert fetched == {"config.yaml", "identifiers.json", "model.safetensors"}  # the card is not needed
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert score(evaluate_config("checkpoint=hf://owner/name"), World()) == before
