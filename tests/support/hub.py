"""A Hub on the loopback address: serves folders as model and dataset repositories to the real clients, takes uploads.

    with Hub(models={"Salesforce/blip-image-captioning-base": folder}, datasets={...}) as hub:
        processes.run("-m", "idvl", ..., env=hub.env(tmp_path / "cache"))

The clients read HF_ENDPOINT when they are imported, so what is tested runs in a process of its own. One Hub at a time.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from tests.support import processes

DATE = "2026-01-01T00:00:00.000Z"
API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+?)(?:/(?P<verb>revision|tree|paths-info)/(?P<rest>.+))?"
)
UPLOAD = re.compile(
    r"/api/(?:repos/(?P<create>create)|validate-yaml|models/(?P<repo>.+)/(?P<verb>preupload|commit)/main)"
)
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass(frozen=True)
class Repo:
    """A folder as a repository, whose commit is another one when its files have changed."""

    kind: str
    name: str
    folder: Path

    @property
    def commit(self) -> str:
        files = [(name, path.stat().st_size) for name, path in self.files.items()]
        return hashlib.sha1(f"{self.kind}/{self.name} {files}".encode()).hexdigest()

    @property
    def files(self) -> dict[str, Path]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    def info(self, *, blobs: bool = False) -> dict[str, Any]:
        """What the Hub's API says of a repository, with `blobs` also of the files' contents."""
        siblings = [{"rfilename": name} for name in self.files]
        if blobs:
            stored = [path.read_bytes() for path in self.files.values()]
            about = [{"size": len(body), "blobId": _etag(body)} for body in stored]
            siblings = [named | facts for named, facts in zip(siblings, about, strict=True)]
        facts = {"id": self.name, "sha": self.commit, "siblings": siblings, "private": False}
        return {**facts, "disabled": False, "tags": [], "downloads": 0, "likes": 0, "lastModified": DATE}

    def entries(self, under: str, recursive: bool) -> list[dict[str, Any]]:
        """The files and folders below `under`, as the API lists a tree."""
        prefix = f"{under}/" if under else ""
        below = [name for name in self.files if name.startswith(prefix)]
        folders = {str(parent) for name in below for parent in Path(name).parents if str(parent) not in (".", under)}
        listed = [self.entry(name) for name in sorted(below)]
        listed += [{"type": "directory", "path": name, "oid": _hash(name), "size": 0} for name in sorted(folders)]
        return [entry for entry in listed if recursive or "/" not in entry["path"][len(prefix) :]]

    def entry(self, name: str) -> dict[str, Any]:
        return {"type": "file", "path": name, "oid": _hash(name), "size": self.files[name].stat().st_size}


class Hub:
    """Serves `models` and `datasets`, repository names mapped to folders, while it is entered.

    Files of the repositories in `gated` need a token. `moved`: old names of repositories and their new ones.
    `fault(method, path)` may be set to make requests fail: it returns an HTTP status, or "cut" to close the connection
    in the middle of the body, or "html" for the page of a proxy, or None. `requests` lists what was asked, `sent`
    counts the bytes of each path that went out. `created` holds what was asked of new repositories, `uploaded` the
    files of each that took a commit.
    """

    def __init__(
        self,
        models: Mapping[str, Path] | None = None,
        datasets: Mapping[str, Path] | None = None,
        *,
        gated: Iterable[str] = (),
        moved: Mapping[str, str] | None = None,
        fault: Callable[[str, str], int | str | None] | None = None,
    ) -> None:
        kinds = {"models": models or {}, "datasets": datasets or {}}
        self.repos = {
            (kind, name): Repo(kind, name, Path(at)) for kind, all in kinds.items() for name, at in all.items()
        }
        self.gated = set(gated)
        self.moved = dict(moved or {})
        self.fault = fault
        self.requests: list[tuple[str, str]] = []
        self.sent: Counter[str] = Counter()
        self.created: list[dict[str, Any]] = []
        self.uploaded: dict[str, dict[str, bytes]] = {}
        self.connections: list[socket.socket] = []

    def __enter__(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", processes.hub_port()), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        # or a client that keeps a connection would ask this Hub where the next one listens
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def env(self, cache: Path, **more: str) -> dict[str, str]:
        """The environment of a process whose Hub this is and whose cache is the folder `cache`, until asked again."""
        cache.mkdir(parents=True, exist_ok=True)
        link = processes.cache()
        link.unlink()
        link.symlink_to(cache)
        return {**processes.environment(), **more}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    # header and body are sent apart: the second would wait 40 ms for the first to be acknowledged
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        posted = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.hub.requests.append((self.command, path))
        fault = self.hub.fault(self.command, path) if self.hub.fault else None
        if isinstance(fault, int):
            return self._error(fault, "Fault", "on purpose")
        if fault == "html":
            return self._send(200, b"<html>log in first</html>", {"Content-Type": "text/html"})
        for old, new in self.hub.moved.items():
            if f"/{old}/" in f"{path}/":
                there = self.path.replace(old, new, 1)
                return self._error(307, "RepoMoved", f"moved to {new}", {"Location": there})
        if self.command == "POST" and (found := UPLOAD.fullmatch(path)):
            return self._upload(found, posted)
        if found := API.fullmatch(path):
            return self._api(found, parse_qs(url.query), posted)
        if found := FILE.fullmatch(path):
            return self._file(found, cut=fault == "cut")
        return self._error(404, "NotFound", "no such page")

    def _api(self, found: re.Match[str], query: dict[str, list[str]], posted: str) -> None:
        repo = self.hub.repos.get((found["kind"], found["repo"]))
        revision, _, rest = (found["rest"] or "main").partition("/")
        if repo is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        if revision not in ("main", repo.commit):
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if found["verb"] == "tree":
            entries = repo.entries(rest, query.get("recursive", ["false"])[0].lower() == "true")
            if rest and not entries:
                return self._error(404, "EntryNotFound", "Entry not found")
            return self._json(entries)
        if found["verb"] == "paths-info":
            form = posted.startswith("{")
            paths = json.loads(posted)["paths"] if form else parse_qs(posted).get("paths", [])
            return self._json([repo.entry(name) for name in paths if name in repo.files])
        blobs = "blobs" in query
        return self._json({**repo.info(blobs=blobs), "gated": "manual" if repo.name in self.hub.gated else False})

    def _upload(self, found: re.Match[str], posted: str) -> None:
        """A repository made, a card checked, files announced or committed; all travel inside of the commit."""
        if found["create"]:
            asked = json.loads(posted)
            self.hub.created.append(asked)
            return self._json({"url": f"{self.hub.endpoint}/{asked['organization']}/{asked['name']}"})
        if found["verb"] == "preupload":
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file["path"], **plain} for file in json.loads(posted)["files"]]})
        if found["verb"] == "commit":
            files = [line["value"] for line in map(json.loads, posted.splitlines()) if line["key"] == "file"]
            self.hub.uploaded[found["repo"]] = {file["path"]: base64.b64decode(file["content"]) for file in files}
            commit = {"commitOid": "0" * 40, "commitUrl": f"{self.hub.endpoint}/{found['repo']}/commit/{'0' * 40}"}
            return self._json({"success": True, **commit})
        return self._json({"errors": [], "warnings": []})

    def _file(self, found: re.Match[str], *, cut: bool) -> None:
        repo = self.hub.repos.get(("datasets" if found["kind"] else "models", found["repo"]))
        if repo is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        if repo.name in self.hub.gated and not self.headers.get("Authorization"):
            return self._error(401, "GatedRepo", f"Access to {repo.kind[:-1]} {repo.name} is restricted.")
        if found["revision"] not in ("main", repo.commit):
            return self._error(404, "RevisionNotFound", "Invalid rev id")
        commit = {"X-Repo-Commit": repo.commit}
        if found["path"] not in repo.files:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        body = repo.files[found["path"]].read_bytes()
        headers = {**commit, "ETag": f'"{_etag(body)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return self._send(200, body, headers, cut=cut)
        first, last = int(asked[1]), min(int(asked[2] or len(body) - 1), len(body) - 1)
        if first >= len(body):
            return self._error(416, "RangeNotSatisfiable", "beyond the end", commit)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return self._send(206, body[first : last + 1], headers, cut=cut)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = body[: len(body) // 2] if cut else body
        self.hub.sent[unquote(urlsplit(self.path).path)] += len(body)
        self.wfile.write(body)
        self.close_connection = self.close_connection or cut


def _etag(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def _hash(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def jpeg(number: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """The JPEG of a picture of coloured blocks, another one for each number."""
    blocks = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def caption(number: int, version: int = 0) -> str:
    """A caption, another one for each number and version."""
    things = ("dog", "cat", "bus", "tree", "boat", "horse", "kite", "cake", "chair", "clock")
    words = (things[number // 10**place % 10] for place in (2, 1, 0))
    return ("a photo of a {}, a {} and a {}", "{} next to {} near {}")[version % 2].format(
        *words
    ) + f" in view {version}"


def _coco(number: int) -> dict[str, Any]:
    name = f"COCO_val2014_{number:012d}.jpg"
    answers = [caption(number, version) for version in range(5)]
    ask = "Please carefully observe the image and come up with a caption for the image"
    row = {"question_id": name, "question": ask, "answer": answers, "id": number, "license": 3, "file_name": name}
    return {**row, "coco_url": f"http://images.cocodataset.org/val2014/{name}", "height": 40, "width": 48}


def _flickr30k(number: int) -> dict[str, Any]:
    captions = [caption(number, version) for version in range(5)]
    sentids = [str(5 * number + version) for version in range(5)]
    return {"caption": captions, "sentids": sentids, "img_id": str(number), "filename": f"{1000 + number}.jpg"}


def _karpathy(number: int) -> dict[str, Any]:
    name = f"COCO_val2014_{number:012d}.jpg"
    row = {"filepath": "val2014", "sentids": [10 * number], "filename": name, "imgid": number, "split": "test"}
    sentences = [f"{caption(number, version)}, as listed" for version in range(5)]
    return {**row, "sentences": sentences, "cocoid": number, "url": f"http://images.cocodataset.org/val2014/{name}"}


def _textvqa(number: int) -> dict[str, Any]:
    question = f"what is written on {caption(number)}?"
    row = {"image_id": f"{number // 2:016x}", "question_id": 34_602 + number, "question": question}
    row |= {"question_tokens": question.removesuffix("?").split(), "image_width": 48, "image_height": 40}
    # the second address is missing in some rows
    row |= {"flickr_original_url": f"https://farm1.staticflickr.com/{number}_o.jpg", "flickr_300k_url": None}
    return {**row, "answers": [caption(number)] * 10, "image_classes": ["Sign"], "set_name": "val", "ocr_tokens": []}


def _vqav2(number: int) -> dict[str, Any]:
    given = ["yes"] * 7 + ["no"] * 3
    answers = [
        {"answer": word, "answer_confidence": "maybe", "answer_id": place} for place, word in enumerate(given, 1)
    ]
    row = {"question_type": "is there", "multiple_choice_answer": "yes", "answers": answers, "image_id": number // 3}
    return {**row, "answer_type": "yes/no", "question_id": 1000 * number, "question": f"is there {caption(number)}?"}


def _nlvr2(number: int) -> dict[str, Any]:
    return {"question_id": f"dev-{number}-0-0", "question": caption(number), "answer": str(number % 3 == 0)}


def _cifar100(number: int) -> dict[str, Any]:
    return {"fine_label": number % 100, "coarse_label": number % 100 // 5}


def _fashion_mnist(number: int) -> dict[str, Any]:
    return {"label": number % 10}


def _imagenet(number: int) -> dict[str, Any]:
    return {"label": number % 1000}


@dataclass(frozen=True)
class Kind:
    """A catalogued dataset: its rows without images, its first split, its columns of images and of classes.

    `per_image` rows share an image. `hidden` replaces what a split without public answers does not tell. `types` are
    those of columns whose values do not tell it.
    """

    row: Callable[[int], dict[str, Any]]
    split: str
    images: tuple[str, ...] = ("image",)
    per_image: int = 1
    classes: Mapping[str, int] = field(default_factory=dict)
    hidden: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)


# as the card of lmms-lab/textvqa declares them
TEXTVQA = {
    **dict.fromkeys(("question_id", "image_width", "image_height"), "int32"),
    **{"flickr_300k_url": "string", "ocr_tokens": ["string"]},
}
KINDS = {
    "coco": Kind(_coco, "val", hidden={"answer": None}),
    "coco-karpathy": Kind(_karpathy, "test", images=()),
    "flickr30k": Kind(_flickr30k, "test"),
    "textvqa": Kind(_textvqa, "validation", per_image=2, hidden={"answers": [""] * 10}, types=TEXTVQA),
    "vqav2": Kind(_vqav2, "validation", per_image=3, hidden={"answers": None, "multiple_choice_answer": None}),
    "nlvr2": Kind(_nlvr2, "unbalanced_test_public", images=("left_image", "right_image")),
    "cifar100": Kind(_cifar100, "test", images=("img",), classes={"fine_label": 100, "coarse_label": 20}),
    "fashion-mnist": Kind(_fashion_mnist, "test", classes={"label": 10}),
    "imagenet-1k": Kind(_imagenet, "validation", classes={"label": 1000}, hidden={"label": -1}),
}


def class_name(number: int) -> str:
    """The name of a class; those of the first classes do not come first in the alphabet."""
    return f"class {999 - number:03d}"


def write_dataset(
    kind: str,
    folder: Path,
    n: int | Iterable[int],
    *,
    split: str | None = None,
    shards: int = 1,
    row_group: int = 100,
    hidden: bool = False,
    instead: Callable[[int], dict[str, Any]] = lambda number: {},
) -> Path:
    """A dataset repository with the real columns of `kind`; returns the folder. Another call adds another split.

    `n`: how many rows, or which; `hidden`: as in a split whose answers are not public; `instead`: what a row holds in
    place of its own.
    """
    from datasets import ClassLabel, Dataset, List, Value
    from datasets import Image as ImageFeature

    about = KINDS[kind]
    split = split or about.split
    rows = []
    for number in range(n) if isinstance(n, int) else n:
        pictures = {
            column: {"bytes": jpeg(number // about.per_image + 5_000 * place), "path": None}
            for place, column in enumerate(about.images)
        }
        rows.append({**about.row(number), **pictures, **(about.hidden if hidden else {}), **instead(number)})
    data = Dataset.from_list(rows)
    for column in about.images:
        data = data.cast_column(column, ImageFeature())
    for column, words in about.types.items():
        data = data.cast_column(column, List(Value(*words)) if isinstance(words, list) else Value(words))
    for column, count in about.classes.items():
        data = data.cast_column(column, ClassLabel(names=[class_name(number) for number in range(count)]))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        name = f"{split}-{shard:05d}-of-{shards:05d}.parquet"
        data.shard(shards, shard, contiguous=True).to_parquet(folder / "data" / name, batch_size=row_group)
    (folder / "sizes.json").write_text(json.dumps({**_sizes(folder), split: len(rows)}))
    card = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*"} for name in _sizes(folder)],
            }
        ],
        "dataset_info": {
            "splits": [{"name": name, "num_examples": size, "num_bytes": size} for name, size in _sizes(folder).items()]
        },
    }
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    """The splits that a repository has so far."""
    path = folder / "sizes.json"
    return json.loads(path.read_text()) if path.is_file() else {}
