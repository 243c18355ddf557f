"""A web server on this machine, for tests of downloads."""

import hashlib
import http.server
import threading


class Server:
    """A web server on this machine: path to bytes; counts what was asked for.

    ``pages`` are functions of the query that return a web page, or None for the file.
    ``redirects`` and ``headers`` are by path; ``cut`` ends a connection after so many
    bytes, once. ``resumes`` is False for a server that knows no ranges, and ``starts``
    where one begins that does not do as it is asked.
    """

    def __init__(self):
        self.files, self.asked, self.ranges = {}, [], []
        self.pages, self.redirects, self.headers, self.cut = {}, {}, {}, {}
        self.resumes, self.starts = True, None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.do_GET(body=False)

            def do_GET(self, body=True):
                path, _, query = self.path.partition('?')
                server.asked.append((self.command, path))
                content = server.files.get(path)
                headers = {'X-Repo-Commit': 'c' * 40, **server.headers.get(path, {})}
                status = 200 if content is not None else 404
                page = server.pages.get(path, lambda query: None)(query)
                if path in server.redirects:
                    status, headers['Location'] = 302, server.redirects[path]
                elif page is not None:
                    status, content = 200, page.encode()
                    headers['Content-Type'] = 'text/html; charset=utf-8'
                elif content is None:
                    headers['X-Error-Code'] = 'EntryNotFound'
                content = content or b''
                headers.setdefault('ETag', f'"{hashlib.sha1(content).hexdigest()}"')
                asked = self.headers.get('Range') if body else None
                if asked:
                    server.ranges.append(asked)
                if asked and server.resumes and status == 200:
                    start = int(asked.removeprefix('bytes=').partition('-')[0])
                    start = server.starts or start
                    total, content, status = len(content), content[start:], 206
                    span = f'bytes {start}-{total - 1}/{total}'
                    headers['Content-Range'] = span
                self.send_response(status)
                self.send_header('Content-Length', str(len(content)))
                for name, value in headers.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                if body:
                    self.wfile.write(content[: server.cut.pop(path, None)])

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.address = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def gets(self):
        return [path for method, path in self.asked if method == 'GET']
