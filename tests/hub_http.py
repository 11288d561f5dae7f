"""The HTTP of the stand-in for the Hugging Face Hub (tests/hub.py): as much as huggingface_hub's client needs.

Every request is noted. A test's process reaches the methods of `Hub` by `POST /stand-in/METHOD` with a list of
arguments and a dictionary of options in JSON.
"""

import base64
import hashlib
import http.server
import json
import re
import time
import urllib.parse

import yaml
from hub_repos import READER, TOKEN, Hub, Repo, etag, git_blob, is_large

STATUSES = {"busy": 503, "expired": 401, "forbidden": 403, "limited": 429}  # of faults


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or a body waits 40 ms for the client to acknowledge the headers in front of it
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

    def look_up(self, repo, revision=None):
        """The repo and the commit as this client may see them, or None after an answer that says why not."""
        store = self.hub.repos.get(repo)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if store is None or (store.private and token not in (TOKEN, READER)):
            return self.fail(404 if token else 401, "RepoNotFound")
        if store.gated:
            return self.fail(403, "GatedRepo")
        commit = store.find(revision) if revision else None
        if revision and commit is None and store.branches.get(revision) != []:
            return self.fail(404, "RevisionNotFound")
        return store, commit

    def writes(self):
        """Whether this client may write, after an answer if not."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token != TOKEN:
            self.fail(403 if token else 401, "Forbidden" if token else "Unauthorized")
        return token == TOKEN

    # Reading

    def resolve(self, repo, revision, name):
        if (view := self.look_up(repo, revision)) is None:
            return None
        store, commit = view
        content = store.commits.get(commit, {}).get(name)
        if content is None:
            return self.fail(404, "EntryNotFound", X_Repo_Commit=commit or "0" * 40)
        tag, fault = etag(name, content), (self.hub.faults.get((repo, name)) or [None])[0]
        headers = {"X_Repo_Commit": commit, "ETag": f'"{tag}"'}
        if fault in STATUSES:
            return self.fail(STATUSES[fault], fault.capitalize())
        if fault in ("huge", "unsized") or (fault == "short" and self.command == "HEAD"):
            return self.lie(fault, content, headers)
        if self.hub.redirects and is_large(name):
            self.hub.stored[tag] = content
            place = f"http://localhost:{self.server.server_port}/cdn/{tag}"
            link = {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": str(len(content)), "Location": place}
            return self.reply(b"", 302, **headers, **link)
        tears = fault == "torn" and self.headers.get("Range")
        if tears or (fault == "cut" and self.command == "GET"):
            self.hub.faults[repo, name].pop(0)
            self.send_response(206 if tears else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return None
        if fault == "moves" and self.command == "GET":
            self.hub.faults[repo, name].pop(0)
            store.commit("main", dict.fromkeys(store.commits[commit], b""))
        if fault == "whole":
            return self.reply(content, **headers)
        return self.content(content, **headers)

    def lie(self, fault, content, headers):
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
        for key, value in (headers | ({"Content-Length": size} if size else {})).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True
        return

    def content(self, content, **headers):
        query = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if query is None:
            return self.reply(content, Accept_Ranges="bytes", **headers)
        first, last = int(query[1]), min(int(query[2] or len(content)), len(content) - 1)
        place = f"bytes {first}-{last}/{len(content)}"
        return self.reply(content[first : last + 1], 206, Content_Range=place, **headers)

    def cdn(self, tag):
        self.content(self.hub.stored[tag], ETag=f'"{tag}"')

    def refuses(self, repo, place):
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
        if self.refuses(repo, "discussions") or (view := self.look_up(repo)) is None:
            return None
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        matches = []
        for each in view[0].discussions:
            by_author = query.get("author") in (None, (each["author"] or {}).get("name"))
            open_only = query.get("status") in (None, "all") or (query["status"] == "open") == (
                each["status"] in ("open", "draft")
            )
            if by_author and open_only and (query.get("type") != "pull_request" or each["isPullRequest"]):
                matches.append(
                    each | {"repo": {"name": repo, "type": "model"}, "createdAt": "2026-01-01T00:00:00.000Z"}
                )
        return self.reply({"discussions": matches[::-1], "count": len(matches), "start": 0})

    def history(self, repo, revision):
        if self.refuses(repo, "commits") or (view := self.look_up(repo, revision)) is None:
            return None
        about = {"title": "", "message": "", "authors": [{"user": "someone"}], "date": "2026-01-01T00:00:00.000Z"}
        return self.reply([{"id": name} | about for name in reversed(view[0].branches[revision])])

    def about(self, repo, revision="main"):
        if self.refuses(repo, "revision") or (view := self.look_up(repo, revision)) is None:
            return None
        store, commit = view
        content = store.commits.get(commit, {})
        siblings = [{"rfilename": name} for name in content]
        if "blobs=" in self.path:
            siblings = [
                {"rfilename": name, "blobId": git_blob(content[name]), "size": len(content[name])} for name in content
            ]
        times = {"lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z"}
        common = {"id": repo, "private": store.private, "gated": store.gated, "tags": [], "downloads": 0, "likes": 0}
        front = re.match(rb"---\n(.*?)\n---\n", store.commits.get(commit, {}).get("README.md", b""), re.DOTALL)
        card = {"cardData": yaml.safe_load(front[1])} if front else {}
        return self.reply(common | times | card | {"sha": commit, "siblings": siblings})

    # Writing

    def create(self):
        query = json.loads(self.body)
        repo = f"{query['organization']}/{query['name']}"
        url = f"http://127.0.0.1:{self.server.server_port}/{repo}"
        if not self.writes():
            return None
        if repo in self.hub.repos:
            return self.reply({"url": url, "error": "exists"}, 409)
        private = query.get("private") or query.get("visibility") == "private"
        self.hub.repos[repo] = Repo(private=bool(private))
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
        store = self.hub.repos[repo]
        content = store.commits.get(store.find(revision), {})
        files = []
        for each in json.loads(self.body)["files"]:
            name = each["path"]
            mode = {"uploadMode": "lfs" if is_large(name) else "regular", "shouldIgnore": False}
            oid = {"oid": etag(name, content[name])} if name in content else {}
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

    def verify(self):
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
    (r"/lfs/verify", Handler.verify),
    (r"/lfs/(\w+)", Handler.store),
    (r"/cdn/(\w+)", Handler.cdn),
    (rf"/{ID}/resolve/([^/]+)/(.+)", Handler.resolve),
)
