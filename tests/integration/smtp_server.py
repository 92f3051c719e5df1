"""A real SMTP server (aiosmtpd) for test_reports.py, which runs it in an environment that has the package:
smtp_server.py FOLDER PORT [CERT KEY smtps|starttls [USER PASSWORD]]. Each message becomes FOLDER/N.json: whom it is from and to,
and its bytes; RCPT to `nobody@...` is refused; while FOLDER/hold is there, a message that was taken is not answered."""

import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

folder, port, *tls = sys.argv[1:]
user = tuple(t.encode() for t in tls[3:])


class Handler:
    n = len(os.listdir(folder))

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 nobody of this name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        Handler.n += 1
        path = os.path.join(folder, f"{Handler.n:04d}.json")
        what = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "data": envelope.content.decode("latin-1"),
                "tls": server.transport.get_extra_info("ssl_object") is not None, "user": bool(session.authenticated)}
        with open(path + ".new", "w") as f:
            json.dump(what, f)
        os.rename(path + ".new", path)
        while os.path.exists(os.path.join(folder, "hold")):
            await asyncio.sleep(0.02)
        return "250 OK"


def log_in(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == user)


async def serve():
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls[0], tls[1])
    starttls = bool(tls) and tls[2] == "starttls"

    def one():
        more = {"authenticator": log_in, "auth_required": True, "auth_require_tls": False} if user else {}
        return SMTP(Handler(), hostname="test", tls_context=context if starttls else None, require_starttls=starttls,
                    data_size_limit=2**26, **more)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(one, "127.0.0.1", int(port), ssl=None if starttls else context)
    print("listening", flush=True)
    await server.serve_forever()


asyncio.run(serve())
