"""A stand-in for the Hugging Face Hub on this machine: as much of its HTTP as huggingface_hub's client needs.

Repos live in memory: branches are lists of commits, commits are dictionaries of files, and a pull request is a branch
`refs/pr/NUMBER` beside what its discussion says. Every request is written down.
A test process reaches the methods of `Hub` by `POST /stand-in/METHOD` with a list of arguments and a dictionary of
options in JSON.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import threading
import time
import urllib.parse

import yaml

TOKEN, READER = "hf_writer", "hf_reader"  # the second may not write


@dataclasses.dataclass
class Repo:
    private: bool = False
    gated: bool = False
    branches: dict[str, list[str]] = dataclasses.field(default_factory=lambda: {"main": []})
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    discussions: list[dict] = dataclasses.field(default_factory=list)

    def commit(self, branch, files):
        """A commit with these files beside those of the one before; gives its name."""
        history = self.branches[branch]
        content = (self.commits[history[-1]] if history else {}) | files
        digests = [(file, etag(file, data)) for file, data in sorted(content.items())]
        name = hashlib.sha1(json.dumps([branch, len(history), digests]).encode()).hexdigest()
        self.commits[name] = content
        history.append(name)
        return name

    def find(self, revision):
        """The commit that a branch or a commit's name means, None for neither."""
        if revision in self.branches:
            return self.branches[revision][-1] if self.branches[revision] else None
        return revision if revision in self.commits else None


class Hub:
    """`faults` make the next answers about a file wrong: see `fault`."""

    def __init__(self):
        self.repos, self.stored, self.log, self.faults, self.redirects = {}, {}, [], {}, False
        self.barrier, self.refusals = threading.Barrier(2), {}

    def put(self, repo, folder=None, *, private=False, gated=False, files=None):
        """Makes a repo of a folder's files, or of texts; gives the commit."""
        made = self.repos.setdefault(repo, Repo(private, gated))
        content = {name: text.encode() for name, text in (files or {}).items()}
        if folder is not None:
            content |= {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
        return made.commit("main", content)

    def discuss(self, repo, folder, *, behind=0, twice=False, files=None, title=None, author="SFconvertbot", **fields):
        """Opens a pull request with a folder's files, as the bot that converts weights does; gives its commit.

        It stands on main as that was `behind` commits ago. With `twice` it has two commits. `fields` are of its
        discussion: "status", "isPullRequest".
        """
        found = self.repos[repo]
        number = len(found.discussions) + 1
        title = "Adding `safetensors` variant of this model" if title is None else title
        written = {"name": author} if author else None
        said = {"num": number, "title": title, "author": written, "status": "open", "isPullRequest": True}
        found.discussions.append(said | fields)
        main, branch = found.branches["main"], f"refs/pr/{number}"
        found.branches[branch] = main[: len(main) - behind]
        content = {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()} if folder else {}
        content |= {name: text.encode() for name, text in (files or {}).items()}
        commit = found.commit(branch, content)
        return found.commit(branch, {}) if twice else commit

    def refuse(self, repo, place, status):
        """What to answer to the API's requests about a repo: a status, 0 for silence, None to answer as is right.

        `place` is "discussions", "commits" or "revision".
        """
        self.refusals[repo, place] = status

    def head(self, repo, revision="main"):
        """The newest commit of a branch."""
        return self.repos[repo].find(revision)

    def remove(self, repo):
        """Takes a repo away."""
        del self.repos[repo]

    def file(self, repo, name, revision="main"):
        """The text of a file."""
        return self.repos[repo].commits[self.repos[repo].find(revision)][name].decode()

    def fault(self, repo, name, kind, times=1):
        """How to answer the next `times` requests for the content of a file.

        "cut": half of it. "huge": a size of 1 GB, and nothing. "unsized": 20 MB, and no size. "short": another size in
        its metadata than it has. "busy": status 503. "moves": right, and then main gets a commit in which all files are
        empty. "whole": the whole file, where a part is asked for. "torn": half of a part, and the
        whole file as it is.
        """
        self.faults[repo, name] = [kind] * times

    def meet(self):
        """Answers when two processes have asked."""
        self.barrier.wait(timeout=500)

    def redirect(self, on):
        """Whether large files lie on another host, as on the Hub."""
        self.redirects = on

    def requests(self):
        """What was asked since the last call: method, path, host, range, token, agent, and how many bytes were sent."""
        seen, self.log = self.log, []
        return seen


@contextlib.contextmanager
def serve():
    """A Hub and its address."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.urlsplit(self.path).path
        self.note = {"method": self.command, "path": path, "host": self.headers["Host"].split(":")[0], "sent": 0}
        self.note |= {name: self.headers.get(name) for name in ("Range", "Authorization", "User-Agent")}
        if not path.startswith("/stand-in/"):
            self.hub.log.append(self.note)
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                return method(self, *(urllib.parse.unquote(part) for part in match.groups()))
        return self.fail(404, "Nothing")

    def reply(self, data=b"", status=200, **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.note["sent"] = len(data)
            self.wfile.write(data)

    def fail(self, status, code, **headers):
        self.reply({"error": code}, status, X_Error_Code=code, X_Error_Message=code, **headers)

    def seen(self, repo, revision=None):
        """The repo and the commit as this client may see them, or None after an answer that says why not."""
        found = self.hub.repos.get(repo)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if found is None or (found.private and token not in (TOKEN, READER)):
            return self.fail(404 if token else 401, "RepoNotFound")
        if found.gated:
            return self.fail(403, "GatedRepo")
        commit = found.find(revision) if revision else None
        if revision and commit is None and found.branches.get(revision) != []:
            return self.fail(404, "RevisionNotFound")
        return found, commit

    def writes(self):
        """Whether this client may write, after an answer if not."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token != TOKEN:
            self.fail(403 if token else 401, "Forbidden" if token else "Unauthorized")
        return token == TOKEN

    # Reading

    def resolve(self, repo, revision, name):
        if (seen := self.seen(repo, revision)) is None:
            return None
        found, commit = seen
        content = found.commits.get(commit, {}).get(name)
        if content is None:
            return self.fail(404, "EntryNotFound", X_Repo_Commit=commit or "0" * 40)
        tag, fault = etag(name, content), (self.hub.faults.get((repo, name)) or [None])[0]
        told = {"X_Repo_Commit": commit, "ETag": f'"{tag}"'}
        if fault == "busy":
            return self.fail(503, "Busy")
        if fault in ("huge", "unsized") or (fault == "short" and self.command == "HEAD"):
            return self.lie(fault, content, told)
        if self.hub.redirects and is_large(name):
            self.hub.stored[tag] = content
            place = f"http://localhost:{self.server.server_port}/cdn/{tag}"
            linked = {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": str(len(content)), "Location": place}
            return self.reply(b"", 302, **told, **linked)
        torn = fault == "torn" and self.headers.get("Range")
        if torn or (fault == "cut" and self.command == "GET"):
            self.hub.faults[repo, name].pop(0)
            self.send_response(206 if torn else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        if fault == "moves" and self.command == "GET":
            self.hub.faults[repo, name].pop(0)
            found.commit("main", dict.fromkeys(found.commits[commit], b""))
        if fault == "whole":
            return self.reply(content, **told)
        return self.content(content, **told)

    def lie(self, fault, content, told):
        if fault == "unsized" and self.command == "GET":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(bytes(20_000_000))
            self.close_connection = True
            return
        size = {"huge": "1000000000", "short": str(len(content) + 7)}.get(fault)
        self.send_response(200)
        self.send_header("Connection", "close")  # or the client might send its next request into the closing one
        for key, value in (told | ({"Content-Length": size} if size else {})).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True
        return

    def content(self, content, **headers):
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.reply(content, Accept_Ranges="bytes", **headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        place = f"bytes {first}-{last}/{len(content)}"
        return self.reply(content[first : last + 1], 206, Content_Range=place, **headers)

    def cdn(self, tag):
        self.content(self.hub.stored[tag], ETag=f'"{tag}"')

    def refused(self, repo, place):
        """Whether the Hub refuses to answer, after an answer of that kind."""
        if (status := self.hub.refusals.get((repo, place))) is None:
            return False
        if status == 0:
            time.sleep(1)
            self.close_connection = True
        else:
            self.fail(status, "Refused")
        return True

    def discussions(self, repo):
        if self.refused(repo, "discussions") or (seen := self.seen(repo)) is None:
            return None
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        listed = []
        for each in seen[0].discussions:
            named = asked.get("author") in (None, (each["author"] or {}).get("name"))
            open_only = asked.get("status") in (None, "all") or (asked["status"] == "open") == (
                each["status"] in ("open", "draft")
            )
            if named and open_only and (asked.get("type") != "pull_request" or each["isPullRequest"]):
                listed.append(each | {"repo": {"name": repo, "type": "model"}, "createdAt": "2026-01-01T00:00:00.000Z"})
        return self.reply({"discussions": listed[::-1], "count": len(listed), "start": 0})

    def history(self, repo, revision):
        if self.refused(repo, "commits") or (seen := self.seen(repo, revision)) is None:
            return None
        about = {"title": "", "message": "", "authors": [{"user": "someone"}], "date": "2026-01-01T00:00:00.000Z"}
        return self.reply([{"id": name} | about for name in reversed(seen[0].branches[revision])])

    def about(self, repo, revision="main"):
        if self.refused(repo, "revision") or (seen := self.seen(repo, revision)) is None:
            return None
        found, commit = seen
        content = found.commits.get(commit, {})
        siblings = [{"rfilename": name} for name in content]
        if "blobs=" in self.path:
            siblings = [
                {"rfilename": name, "blobId": git_blob(content[name]), "size": len(content[name])} for name in content
            ]
        times = {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
        common = {"id": repo, "private": found.private, "gated": found.gated, "tags": [], "downloads": 0, "likes": 0}
        front = re.match(rb"---\n(.*?)\n---\n", found.commits.get(commit, {}).get("README.md", b""), re.DOTALL)
        card = {"cardData": yaml.safe_load(front[1])} if front else {}
        return self.reply(common | times | card | {"sha": commit, "siblings": siblings})

    # Writing

    def create(self):
        asked = json.loads(self.body)
        repo = f"{asked['organization']}/{asked['name']}"
        url = f"http://127.0.0.1:{self.server.server_port}/{repo}"
        if not self.writes():
            return None
        if repo in self.hub.repos:
            return self.reply({"url": url, "error": "exists"}, 409)
        hidden = asked.get("private") or asked.get("visibility") == "private"
        self.hub.repos[repo] = Repo(private=bool(hidden))
        self.hub.repos[repo].commit("main", {".gitattributes": b""})
        return self.reply({"url": url})

    def branch(self, repo, name):
        if not self.writes():
            return None
        branches = self.hub.repos[repo].branches
        if name in branches:
            return self.reply({"error": "exists"}, 409)
        branches[name] = list(branches["main"])
        return self.reply({})

    def validate(self):
        self.reply({"errors": [], "warnings": []})

    def preupload(self, repo, revision):
        if not self.writes():
            return None
        found = self.hub.repos[repo]
        there = found.commits.get(found.find(revision), {})
        files = []
        for each in json.loads(self.body)["files"]:
            name = each["path"]
            mode = {"uploadMode": "lfs" if is_large(name) else "regular", "shouldIgnore": False}
            oid = {"oid": etag(name, there[name])} if name in there else {}
            files.append({"path": name} | mode | oid)
        return self.reply({"files": files})

    def batch(self, repo):
        address = f"http://127.0.0.1:{self.server.server_port}/lfs/"
        objects = []
        for each in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": address + each["oid"], "header": {}}, "verify": {"href": address + "verify"}}
            objects.append(each | ({} if each["oid"] in self.hub.stored else {"actions": actions}))
        self.reply({"transfer": "basic", "objects": objects})

    def store(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.stored[oid] = self.body
        self.reply({})

    def verified(self):
        self.reply({})

    def commit(self, repo, revision):
        if not self.writes():
            return None
        files = {}
        for line in self.body.decode().splitlines():
            each = json.loads(line)
            value = each["value"]
            if each["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
        name = self.hub.repos[repo].commit(revision, files)
        url = f"http://127.0.0.1:{self.server.server_port}/{repo}/commit/{name}"
        return self.reply({"commitUrl": url, "commitOid": name})

    def control(self, method):
        arguments, options = json.loads(self.body)
        self.reply(getattr(self.hub, method)(*arguments, **options))


def is_large(name):
    return name.endswith((".safetensors", ".bin"))


def etag(name, content):
    """As the Hub names contents: SHA-256 for large files, git's SHA-1 for others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return git_blob(content)


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ID = r"((?:datasets/)?[\w.-]+/[\w.-]+)"
ROUTES = (
    (r"/stand-in/(\w+)", Handler.control),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate),
    (rf"/api/models/{ID}/preupload/([^/]+)", Handler.preupload),
    (rf"/api/models/{ID}/commit/([^/]+)", Handler.commit),
    (rf"/api/models/{ID}/branch/([^/]+)", Handler.branch),
    (rf"/api/models/{ID}/discussions", Handler.discussions),
    (rf"/api/models/{ID}/commits/([^/]+)", Handler.history),
    (rf"/api/models/{ID}/revision/([^/]+)", Handler.about),
    (rf"/api/models/{ID}", Handler.about),
    (rf"/{ID}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/verify", Handler.verified),
    (r"/lfs/(\w+)", Handler.store),
    (r"/cdn/(\w+)", Handler.cdn),
    (rf"/{ID}/resolve/([^/]+)/(.+)", Handler.resolve),
)
