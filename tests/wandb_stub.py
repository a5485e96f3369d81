"""Stub of a W&B server on loopback: takes figures, files and artifacts, or fails in a chosen way."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUN = {
    "id": "r", "name": "r", "displayName": "r", "config": "{}", "sweepName": None, "historyLineCount": 0,
    "project": {"id": "p", "name": "skelnorm", "entity": {"id": "e", "name": "us"}},
}  # fmt: skip
COMMITTED = {"id": "a", "digest": "d", "state": "COMMITTED", "aliases": [], "artifactSequence": {"id": "s"}}
PROJECT = {"id": "p", "internalId": "p", "name": "skelnorm", "entity": {"id": "e", "name": "us"}}
ARTIFACT = COMMITTED | {
    "artifactSequence": {"__typename": "ArtifactSequence", "id": "s", "name": "data", "project": PROJECT},
    "versionIndex": 0, "artifactType": {"name": "dataset"}, "description": None, "metadata": "{}",
    "ttlDurationSeconds": -1, "ttlIsInherited": False, "tags": [], "historyStep": None, "size": 0, "commitHash": None,
    "fileCount": 0, "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None,
}  # fmt: skip


class Stub:
    """`mode`: ok, or a status that every request gets, or hang, which no request ever gets out of."""

    def __init__(self) -> None:
        self.mode: str | int = "ok"
        self.asked: list[str] = []  # the GraphQL operations
        self.variables: dict[str, list[Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self.complete = False
        self.keys: set[str] = set()  # that requests came with
        self.uploaded: list[str] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                kind, _, coded = self.headers.get("Authorization", "").partition(" ")
                if kind == "Basic":
                    stub.keys.add(base64.b64decode(coded).decode().partition(":")[2])
                if stub.mode == "hang":
                    stub.over.wait()
                    return
                if stub.mode != "ok":
                    self.answer(int(stub.mode), {"error": "as asked"})
                elif self.path.endswith("/graphql"):
                    self.answer(200, {"data": stub.graphql(json.loads(body))})
                else:
                    if self.path.endswith("/file_stream"):
                        stub.file_stream(json.loads(body))
                    self.answer(200, {})

            do_PUT = do_GET = do_POST

            def answer(self, status: int, value: dict[str, Any]) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.over = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def graphql(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answers to what a run asks; empty ones to the rest."""
        words = question["query"].replace("(", " ").replace("{", " ").split()
        operation = words[1] if len(words) > 1 else ""
        variables = question.get("variables") or {}
        self.asked.append(operation)
        self.variables.setdefault(operation, []).append(variables)
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in variables.get("files", [])]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        answers = {
            "Viewer": {"viewer": {"id": "v", "username": "us", "entity": "us", "flags": "{}", "teams": {"edges": []}}},
            "UpsertBucket": {"upsertBucket": {"bucket": RUN | {"name": variables.get("name")}, "inserted": True}},
            "CreateArtifact": {"createArtifact": {"artifact": COMMITTED}},
            "ArtifactType": {"project": None},
            "ArtifactByID": {"artifact": ARTIFACT},
            "UseArtifact": {"useArtifact": {"artifact": {"id": "a"}}},
        }
        return answers.get(operation, {})

    def file_stream(self, body: dict[str, Any]) -> None:
        """Rows of history, and whether the run has ended."""
        chunk = body.get("files", {}).get("wandb-history.jsonl", {})
        self.rows += [json.loads(row) for row in chunk.get("content", [])]
        self.uploaded += body.get("uploaded") or []
        self.complete |= bool(body.get("complete"))

    def close(self) -> None:
        """Let go of every request, and stop."""
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def wait_for(self, operation: str, limit: float) -> bool:
        """Return whether it was asked for within `limit` seconds."""
        end = time.monotonic() + limit
        while time.monotonic() < end and operation not in self.asked:
            time.sleep(0.05)
        return operation in self.asked
