"""A web server on this machine, for tests of downloads."""

import hashlib
import http.server
import threading


class Server:
    """A web server on this machine: path to bytes; counts what was asked for."""

    def __init__(self):
        self.files, self.asked = {}, []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.do_GET(body=False)

            def do_GET(self, body=True):
                path = self.path.split('?')[0]
                server.asked.append((self.command, path))
                content = server.files.get(path)
                self.send_response(200 if content is not None else 404)
                content = content or b''
                self.send_header('Content-Length', str(len(content)))
                self.send_header('ETag', f'"{hashlib.sha1(content).hexdigest()}"')
                self.send_header('X-Repo-Commit', 'c' * 40)
                if path not in server.files:
                    self.send_header('X-Error-Code', 'EntryNotFound')
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.address = f'http://127.0.0.1:{self.http.server_port}'
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def gets(self):
        return [path for method, path in self.asked if method == 'GET']
