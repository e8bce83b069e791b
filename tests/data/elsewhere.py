"""Shards that lie elsewhere, for tests: in fsspec's memory, and on a web server of this machine."""

import io
import tarfile
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from PIL import Image


def picture(number):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 20 % 256, number, 0)).save(file, "PNG")
    return file.getvalue()


def packed(numbers):
    """A shard of these samples."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number in numbers:
            for ending, content in ((".png", picture(number)), (".txt", f"picture {number}".encode())):
                entry = tarfile.TarInfo(f"{number:09d}{ending}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


class Server:
    """files: {name: bytes}, which may change. asked: (method, name, range) of each request. failing: so many more
    requests are answered by 503. lists, ranges: whether it lists its files, and gives parts of them.
    """

    def __init__(self, files):
        self.files, self.asked, self.failing, self.lists, self.ranges, self.url = files, [], 0, True, True, ""


@contextmanager
def serving(files):
    """A web server that gives these files under ``/set``."""
    server = Server(files)

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            name = self.path.removeprefix("/set").strip("/").replace("%20", " ")
            server.asked.append((self.command, name, self.headers.get("Range")))
            if server.failing:
                server.failing -= 1
                return self.give(503, b"")
            if not name:
                links = "".join(f'<a href="/set/{n.replace(" ", "%20")}">{n}</a>' for n in server.files)
                return self.give(200, links.encode()) if server.lists else self.give(403, b"")
            if name not in server.files:
                return self.give(404, b"")
            content = server.files[name]
            headers = {"ETag": f'"{md5(content).hexdigest()}"'}
            if self.headers.get("Range") and server.ranges:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                part = content[int(first) : int(last or len(content)) + 1]
                said = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
                return self.give(206, part, {**headers, "Content-Range": said})
            return self.give(200, content, headers)

        def give(self, status, content, headers=()):
            self.send_response(status)
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD = answer

        def log_message(self, *args):
            pass

    real = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=real.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    server.url = f"http://127.0.0.1:{real.server_port}/set"
    try:
        yield server
    finally:
        real.shutdown()
        real.server_close()
        thread.join()
