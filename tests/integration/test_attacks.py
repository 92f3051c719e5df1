#!/usr/bin/env python3
"""Attacks on the scheduler's public port, and by a node on the scheduler: framing, request smuggling, response splitting,
header injection, credentials, JSON. One row, one attack. Each must be refused, the connection closed where nothing on it
can be believed any more; of the attack nothing may reach a node as a second request or as a header, which is read off
the bytes that a recording node gets; and a client that was there before goes on undisturbed. The rows about bytes run a
second time over TLS with several workers."""

import json
import os
import subprocess
import threading
import time

from attack_stage import (
    AUTH, BODY, CHUNKS, Client, GOOD, HOST, KEY, LENGTH, LOCAL_KEY, OTHER_KEY, Reply, SMUGGLED, TE, case, cases,
    chat_body, chunked, framing, harmless, head, https_cases, https_stage, is_error, post, refused, stage)
from harness import Scheduler, free_port, key_hash, main, node, run_ns, until_quick

# ---- who is right about the length ------------------------------------------------------------------------------------

framing("cl_te", head("Content-Length: 6", TE) + "0\r\n\r\nG")
framing("te_cl", head(TE, "Content-Length: 4") + CHUNKS)
framing("te_cl_zero", head(TE, "Content-Length: 0") + CHUNKS)
framing("cl_zero_te", head("Content-Length: 0", TE) + CHUNKS)
framing("te_te_identity", head(TE, "Transfer-Encoding: identity") + CHUNKS)
framing("te_te_same", head(TE, TE) + CHUNKS)
framing("te_te_hidden", head("Transfer-Encoding: x", TE) + CHUNKS, 400, 501)
for i, value in enumerate(("xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "chunked, chunked",
                           "chunked;q=0", '"chunked"', "identity", "chun ked", "chunked,", ",chunked", "", "c\xadhunked")):
    framing(f"te_value_{i}", head(f"Transfer-Encoding: {value}") + CHUNKS, 501)
    framing(f"te_value_{i}_and_cl", head(f"Transfer-Encoding: {value}", LENGTH) + BODY, 400, 501)
framing("te_vertical_tab", head("Transfer-Encoding:\x0bchunked", LENGTH) + BODY)
framing("te_space_before_colon", head("Transfer-Encoding : chunked", LENGTH) + BODY)
framing("te_tab_before_colon", head("Transfer-Encoding\t: chunked", LENGTH) + BODY)
framing("te_folded", head("Transfer-Encoding:\r\n chunked") + CHUNKS, 400, 501)
framing("te_behind_bare_cr", head("X: x\rTransfer-Encoding: chunked", LENGTH) + BODY)
framing("te_behind_bare_lf", head("X: x\nTransfer-Encoding: chunked", LENGTH) + BODY)
framing("te_leading_space", head(" Transfer-Encoding: chunked", LENGTH) + BODY)
framing("te_http_1_0", head(TE, version="HTTP/1.0") + CHUNKS)
framing("te_http_1_0_keep_alive", head(TE, "Connection: keep-alive", version="HTTP/1.0") + CHUNKS)
framing("te_http_1_0_and_cl", head(TE, LENGTH, version="HTTP/1.0") + BODY)
harmless("te_with_underscore_is_no_te", head("Transfer_Encoding: chunked", LENGTH) + BODY, BODY)
harmless("te_named_in_connection", head(TE, "Connection: Transfer-Encoding") + CHUNKS, BODY)
harmless("cl_named_in_connection", head(LENGTH, "Connection: Content-Length, keep-alive") + BODY, BODY)
harmless("te_trailers_offered", head(LENGTH, "TE: trailers, chunked", "Trailer: X-Evil") + BODY, BODY)

framing("cl_twice_same", head(LENGTH, LENGTH) + BODY)
framing("cl_twice_different", head("Content-Length: 0", LENGTH) + BODY)
framing("cl_twice_zero_last", head(LENGTH, "content-length: 0") + BODY)
for i, value in enumerate((f"{len(BODY)}, {len(BODY)}", f"+{len(BODY)}", f"-{len(BODY)}", "-0", "0x10", "1e2", "16.0",
                           "1 6", "1_6", "", "\xb2", "NaN", f"{len(BODY)};a", f'"{len(BODY)}"', "0,16")):
    framing(f"cl_value_{i}", head(f"Content-Length: {value}") + BODY)
for i, value in enumerate(("1048577", "4294967296", "9223372036854775807", "9223372036854775808",
                           "18446744073709551616", "9" * 4000)):
    framing(f"cl_huge_{i}", head(f"Content-Length: {value}") + BODY, 413)
framing("cl_space_before_colon", head(f"Content-Length : {len(BODY)}") + BODY)
framing("cl_nul", head(f"Content-Length: {len(BODY)}\0") + BODY)
framing("cl_with_nul_in_name", head(f"Content\0-Length: {len(BODY)}") + BODY)
framing("get_with_body_http_1_0", head(LENGTH, method="GET", path="/v1/models", version="HTTP/1.0") + BODY)
harmless("cl_leading_zeros", head(f"Content-Length: 000{len(BODY)}") + BODY, BODY)


def body_of_a_get_is_a_body(_):
    """A GET's body that spells a request is swallowed as what it is."""
    c = stage.connect()
    c.send(f"GET /v1/models HTTP/1.1\r\n{HOST}{AUTH}Content-Length: {len(SMUGGLED)}\r\n\r\n".encode() + SMUGGLED)
    assert c.reply().status == 200
    c.send(b"GET /healthz HTTP/1.1\r\n" + HOST.encode() + b"\r\n")
    assert b'"ok"' in c.reply().body
    stage.unharmed()


case("get_with_a_request_as_its_body", body_of_a_get_is_a_body)


def body_waits_for_nobody(_):
    """CL.0: an endpoint that wants no body must not leave it to be read as the next request."""
    for path, status in (("/healthz", 405), ("/nope", 404), ("/metrics", 404), ("/v1/models", 405)):
        c = stage.connect()
        c.send(post(SMUGGLED, path=path))
        r = c.reply()
        assert r.status == status, path
        if r.headers.get("connection") == "close":  # refused at its head: nothing more is read
            c.closed()
        else:
            c.send(b"GET /healthz HTTP/1.1\r\n" + HOST.encode() + b"\r\n")
            assert b'"ok"' in c.reply().body
        c.close()
    stage.unharmed()


case("cl_0", body_waits_for_nobody)

# ---- chunks -----------------------------------------------------------------------------------------------------------

for name, text in (
        ("empty_size", "\r\n"), ("plus", "+5\r\nhello\r\n0\r\n\r\n"), ("minus", "-5\r\nhello\r\n0\r\n\r\n"),
        ("hex_prefix", "0x5\r\nhello\r\n0\r\n\r\n"), ("space_before", " 5\r\nhello\r\n0\r\n\r\n"),
        ("space_behind", "5 \r\nhello\r\n0\r\n\r\n"), ("tab_behind", "5\t\r\nhello\r\n0\r\n\r\n"),
        ("underscore", "1_0\r\nhello\r\n0\r\n\r\n"), ("not_hex", "g\r\n"), ("comma", "5,5\r\nhello\r\n"),
        ("nul", "5\0\r\nhello\r\n0\r\n\r\n"), ("digits_17", "0" * 16 + "5\r\nhello\r\n0\r\n\r\n"),
        ("bare_lf", "5\nhello\r\n0\r\n\r\n"), ("bare_cr", "5\rhello\r\n0\r\n\r\n"),
        ("lf_in_extension", "5;a\nX: y\r\nhello\r\n0\r\n\r\n"), ("cr_in_extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("nul_in_extension", "5;\0\r\nhello\r\n0\r\n\r\n"), ("extension_without_size", ";a=b\r\nhello\r\n"),
        ("long_extension", "5;" + "x" * 5000 + "\r\nhello\r\n0\r\n\r\n"),
        ("extensions_forever", ("1;" + "x" * 200 + "\r\n \r\n") * 200 + "0\r\n\r\n"),
        ("data_too_long", "5\r\nhello!\r\n0\r\n\r\n"), ("data_too_short", "6\r\nhello\r\n0\r\n\r\n"),
        ("data_ends_with_lf", "5\r\nhello\n0\r\n\r\n"), ("trailer", "0\r\nX-Evil: 1\r\n\r\n"),
        ("trailer_cl", "0\r\nContent-Length: 5\r\n\r\nhello"), ("trailer_auth", f"0\r\n{AUTH}\r\n"),
        ("trailer_folded", "0\r\n X: y\r\n\r\n"), ("end_with_lf", "0\n\n"), ("end_with_cr_only", "0\r\n\r\r\n")):
    framing(f"chunk_{name}", chunked(text))
for name, text in (("ffffffffffffffff", "ffffffffffffffff\r\n"), ("sign_bit", "8000000000000000\r\n"),
                   ("2_to_32", "100000000\r\n"), ("over_the_limit", "100001\r\n"),
                   ("sum_over_the_limit", "80000\r\n" + "x" * 0x80000 + "\r\n80001\r\n")):
    framing(f"chunk_size_{name}", chunked(text), 413)
harmless("chunk_extension_is_dropped", chunked(f"{len(BODY):x};x=\"SMUGGLED\"\r\n{BODY}\r\n0\r\n\r\n"), BODY)
harmless("chunk_size_leading_zeros", chunked(f"{len(BODY):016X}\r\n{BODY}\r\n0\r\n\r\n"), BODY)

# ---- the head ---------------------------------------------------------------------------------------------------------

framing("bare_lf_everywhere", head(LENGTH).replace("\r\n", "\n") + BODY)
framing("bare_lf_request_line", f"POST /v1/chat/completions HTTP/1.1\n{HOST}{AUTH}{LENGTH}\r\n\r\n{BODY}")
framing("bare_lf_last", f"POST /v1/chat/completions HTTP/1.1\r\n{HOST}{AUTH}{LENGTH}\r\n\n{BODY}")
framing("bare_cr_line_end", f"POST /v1/chat/completions HTTP/1.1\r{HOST}{AUTH}{LENGTH}\r\n\r\n{BODY}")
framing("cr_cr_lf", head("X: y\r", LENGTH) + BODY)
framing("folded_with_space", head("X: a", " b", LENGTH) + BODY)
framing("folded_with_tab", head("X: a", "\tb", LENGTH) + BODY)
framing("folded_host", head(LENGTH, host="Host: local\r\n host\r\n") + BODY)
framing("first_line_folded", head(" X: y", LENGTH, host="", auth="") + BODY)
framing("nul_in_value", head("X: a\0b", LENGTH) + BODY)
framing("nul_in_name", head("X\0Y: a", LENGTH) + BODY)
framing("nul_in_target", head(LENGTH, path="/v1/chat\0/completions") + BODY)
framing("control_in_value", head("X: a\x01b", LENGTH) + BODY)
framing("delete_in_value", head("X: a\x7fb", LENGTH) + BODY)
framing("escape_in_value", head("X: \x1b[2J", LENGTH) + BODY)
framing("space_before_colon", head("X : a", LENGTH) + BODY)
framing("no_colon", head("nonsense", LENGTH) + BODY)
framing("empty_name", head(": a", LENGTH) + BODY)
framing("name_in_quotes", head('"X": a', LENGTH) + BODY)
framing("name_of_high_bytes", head("X\xe9: a", LENGTH) + BODY)
framing("host_missing", head(LENGTH, host="") + BODY)
framing("host_twice", head(LENGTH, "Host: localhost") + BODY)
framing("host_twice_different", head("host: evil", LENGTH) + BODY)
for i, value in enumerate(("a b", "a/metrics", "a@b", "a,b", "a\\b", "a?b", "a#b", "<a>")):
    framing(f"host_value_{i}", head(LENGTH, host=f"Host: {value}\r\n") + BODY)
framing("absolute_form_of_another_host", head(LENGTH, path="http://evil/v1/chat/completions") + BODY)
framing("absolute_form_with_user", head(LENGTH, path="http://localhost@evil/v1/chat/completions") + BODY)
framing("absolute_form_longer_host", head(LENGTH, path="http://localhost.evil/v1/chat/completions") + BODY)
framing("absolute_form_ftp", head(LENGTH, path="ftp://localhost/v1/chat/completions") + BODY)
framing("absolute_form_without_host", head(LENGTH, path="http:///v1/chat/completions") + BODY)
framing("target_without_slash", head(LENGTH, path="v1/chat/completions") + BODY)
framing("target_with_fragment", head(LENGTH, path="/v1/chat/completions#x") + BODY)
framing("target_of_high_bytes", head(LENGTH, path="/v1/chat/complet\xefons") + BODY)
framing("target_with_tab", head(LENGTH, path="/v1/chat/completions\tx") + BODY)
framing("target_with_space", head(LENGTH, path="/v1/chat/completions x") + BODY)
framing("target_star", head(LENGTH, path="*") + BODY)
framing("two_spaces", head(LENGTH, path=" /v1/chat/completions") + BODY)
framing("method_lines", head(LENGTH, method="PO\tST") + BODY)
framing("method_too_long", head(LENGTH, method="A" * 300) + BODY, 501)
framing("connect", head(method="CONNECT", path="localhost:80"))
framing("http_0_9", "GET /v1/models\r\n")
framing("http_0_9_version", head(method="GET", version="HTTP/0.9"), 505)
framing("http_1_2", head(LENGTH, version="HTTP/1.2") + BODY, 505)
framing("http_2_preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
framing("http_lower_case", head(LENGTH, version="http/1.1") + BODY)
framing("http_1_10", head(LENGTH, version="HTTP/1.10") + BODY)
framing("version_with_tail", head(LENGTH, version="HTTP/1.1 ") + BODY)
framing("tls_on_a_plain_port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 3)
framing("line_is_too_long", head(LENGTH, path="/v1/models/" + "x" * 40000), 414)
framing("header_is_too_long", head("X: " + "x" * 40000, LENGTH) + BODY, 431)
framing("head_is_too_large", head(*[f"X-{i}: " + "x" * 900 for i in range(60)], LENGTH) + BODY, 431)
framing("too_many_headers", head(*[f"X-{i}: y" for i in range(200)], LENGTH) + BODY, 431)
framing("names_without_end", "POST / HTTP/1.1\r\n" + "X" * 40000, 431)
framing("blank_lines_first", "\r\n" * 100 + head(LENGTH) + BODY)
framing("expectation_of_anything", head("Expect: everything", LENGTH) + BODY, 417)
framing("upgrade_without_end", head("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMA",
                                    "Content-Length: 5", "Content-Length: 5") + "hello")
harmless("upgrade_is_not_taken", head("Upgrade: h2c", "Connection: Upgrade", LENGTH) + BODY, BODY)
harmless("pipelined_requests_stay_two", (head(LENGTH) + BODY) * 2, BODY, BODY)
harmless("absolute_form_of_our_host", head(LENGTH, path="http://LOCALHOST/v1/chat/completions") + BODY, BODY)


def cut_anywhere(_):
    """The same verdict wherever the network cuts an attack: CL.TE in two pieces, at every place of it."""
    raw = (head("Content-Length: 6", TE) + "0\r\n\r\n").encode()
    for at in range(1, len(raw), 3):
        c = stage.connect()
        c.send(raw[:at])
        c.send(raw[at:] + SMUGGLED)
        r = c.reply()
        assert r.status == 400 and r.headers["connection"] == "close"
        c.closed()
        c.close()
    stage.unharmed()


case("cl_te_cut_anywhere", cut_anywhere)


def refused_behind_a_good_one(_):
    """A good request, an attack and a good request in one write: answered, refused, never read."""
    c = stage.connect()
    c.send((head(LENGTH) + BODY + head(LENGTH, LENGTH) + BODY).encode() + SMUGGLED)
    assert c.reply().status == 200
    r = c.reply()
    assert r.status == 400 and r.headers["connection"] == "close"
    c.closed()
    c.close()
    stage.unharmed((BODY,))


case("pipelined_attack_behind_a_good_request", refused_behind_a_good_one)


def close_means_close(_):
    """What is pipelined behind 'Connection: close' is not served."""
    c = stage.connect()
    c.send((head(LENGTH, "Connection: x, Close") + BODY).encode() + SMUGGLED)
    r = c.reply()
    assert r.status == 200 and r.headers["connection"] == "close"
    c.closed()
    c.close()
    stage.unharmed((BODY,))


case("pipelined_behind_connection_close", close_means_close)


def gone_in_the_middle(_):
    """Half a body, and the client leaves: no request."""
    for raw in (head("Content-Length: 5000") + BODY, chunked(CHUNKS[:-5]), chunked(CHUNKS[:-2]), head(LENGTH)[:-3]):
        c = stage.connect()
        c.send(raw.encode())
        c.close()
    stage.unharmed()


case("half_a_request_and_gone", gone_in_the_middle)


def expect_then_something_else(_):
    """A refused head with Expect is not asked for its body, and the body that comes anyway is no request."""
    c = stage.connect()
    c.send(head("Expect: 100-continue", "Content-Length: 9", TE).encode())
    assert c.reply().status == 400
    c.send(SMUGGLED)
    c.closed()
    c.close()
    stage.unharmed()


case("expect_and_a_bad_head", expect_then_something_else)

# ---- paths that are not there -----------------------------------------------------------------------------------------

for i, path in enumerate((
        "/metrics", "/admin", "/admin/v1/nodes", "//metrics", "//admin/v1/nodes", "/./metrics", "/v1/../metrics",
        "/v1/models/../../metrics", "/v1/models/..%2f..%2fmetrics", "/%6detrics", "/%2e%2e/metrics", "/v1/%2e%2e/admin",
        "/%2Fmetrics", "/metrics/", "/metrics;x=y", "/;x/metrics", "/healthz;/../metrics", "/healthz/../metrics",
        "/healthz%00/metrics", "/\\metrics", "/v1\\..\\metrics", "/METRICS", "/metrics%20", "/metrics?x=y",
        "/healthz%3f/../metrics", "/v1/models/%00", "/v1/models/%", "/v1/models/%zz", "/v1/models/%c0%ae%c0%ae",
        "/v1/models/..;/admin", "http://localhost/metrics", "http://localhost//admin")):
    refused(f"path_{i}", head(method="GET", path=path), 404)
for i, path in enumerate(("/v1/chat/completions/", "/v1//chat/completions", "/v1/chat%2fcompletions", "//v1/chat/completions",
                          "/v1/chat/completions;x", "/V1/chat/completions", "/v1/chat/completions%00",
                          "/v1/chat/../chat/completions", "/v1/chat/completions%3f")):
    refused(f"post_path_{i}", post(SMUGGLED, path=path), 404)
refused("trace", head(method="TRACE", path="/v1/models"), 405)
refused("trace_of_nothing", head(method="TRACE", path="/"), 404)
refused("options_star", head(method="OPTIONS", path="*"), 404)
refused("method_of_other_case", head(LENGTH, method="post") + BODY, 405)
refused("method_override", head("X-HTTP-Method-Override: POST", "Content-Length: 0", method="PUT"), 405)
refused("original_url", head("X-Original-URL: /metrics", "X-Rewrite-URL: /admin", method="GET", path="/x"), 404)
harmless("path_of_a_header_is_not_taken", head("X-Original-URL: /metrics", LENGTH) + BODY, BODY)

# ---- who may come in --------------------------------------------------------------------------------------------------


def credential(name, lines, body=SMUGGLED, path="/v1/chat/completions", statuses=(401,)):
    refused(f"auth_{name}", head(*lines, f"Content-Length: {len(body)}", path=path, auth="").encode("latin-1") + body,
            *statuses)


credential("none", [])
credential("empty", ["Authorization:"])
credential("blanks", ["Authorization:  \t "])
credential("scheme_alone", ["Authorization: Bearer"])
credential("scheme_and_blanks", ["Authorization: Bearer   "])
credential("wrong_scheme", [f"Authorization: Basic {KEY}"])
credential("wrong_scheme_prefix", [f"Authorization: XBearer {KEY}"])
credential("no_scheme", [f"Authorization: {KEY}"])
credential("no_blank", [f"Authorization: Bearer{KEY}"])
credential("tab_for_blank", [f"Authorization: Bearer\t{KEY}"])
credential("two_keys_in_one", [f"Authorization: Bearer {KEY} {KEY}"])
credential("list_of_keys", [f"Authorization: Bearer {KEY}, Bearer {KEY}"])
credential("other_case", [f"Authorization: Bearer {KEY.upper()}"])
credential("prefix", [f"Authorization: Bearer {KEY[:-1]}"])
credential("longer", [f"Authorization: Bearer {KEY}x"])
credential("quoted", [f'Authorization: Bearer "{KEY}"'])
credential("its_hash", [f"Authorization: Bearer {key_hash(KEY)}"])
credential("percent_encoded", [f"Authorization: Bearer {KEY.replace('_', '%5f')}"])
credential("high_bytes", ["Authorization: Bearer \xff\xfe\xc0\xaf"])
credential("sixteen_kib", ["Authorization: Bearer " + "k" * 16384])
credential("of_the_node", ["Authorization: Bearer node-secret"])
credential("in_the_query", [], path=f"/v1/chat/completions?key={KEY}&api_key={KEY}&access_token={KEY}")
credential("in_other_headers", [f"X-Key: {KEY}", f"Proxy-Authorization: Bearer {KEY}", f"Cookie: key={KEY}",
                                f"X-Authorization: Bearer {KEY}"])
credential("name_with_underscore", [f"Authorization_: Bearer {KEY}"])
credential("in_the_body", [], body=json.dumps({"api_key": KEY, "authorization": f"Bearer {KEY}", "model": "m",
                                               "messages": [{"role": "user", "content": "x"}]}).encode())
credential("forwarded_as_loopback", ["X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1"])
refused("auth_models", head(method="GET", path="/v1/models", auth=""), 401)
refused("auth_one_model", head(method="GET", path="/v1/models/m", auth=""), 401)
framing("auth_twice", head(AUTH.strip(), LENGTH) + BODY)
framing("auth_twice_other_tenant", head(f"authorization: Bearer {OTHER_KEY}", LENGTH) + BODY)
framing("auth_twice_bad_first", head(AUTH.strip(), LENGTH, auth="Authorization: Bearer nobody\r\n") + BODY)
framing("auth_nul", head(LENGTH, auth=f"Authorization: Bearer {KEY}\0\r\n") + BODY)
framing("auth_nul_in_front", head(LENGTH, auth=f"Authorization: Bearer \0{KEY}\r\n") + BODY)
framing("auth_folded", head(LENGTH, auth=f"Authorization: Bearer\r\n {KEY}\r\n") + BODY)
framing("auth_64_kib", head("Authorization: Bearer " + "k" * 65536, LENGTH, auth="") + BODY, 431)
harmless("auth_padded_with_blanks", head(LENGTH, auth=f"aUTHORIZATION: \t bEARER {KEY} \t \r\n") + BODY, BODY)


def no_word_of_keys(_):
    log = stage.scheduler.log_text()
    for key in (KEY, LOCAL_KEY, OTHER_KEY, "node-secret"):
        assert key not in log, "a key in the log"


case("auth_keys_are_not_logged", no_word_of_keys)

LOCAL = f"Authorization: Bearer {LOCAL_KEY}\r\n"
for i, (extra, fields) in enumerate((
        ("", {}), ("X-Spillway-Local-Only: false\r\n", {}), ("", {"local_only": False, "spillway_local_only": False}),
        ("X-Spillway-Node: remote\r\n", {"node": "remote"}), ("X-Tenant: t\r\nX-Spillway-Tenant: t\r\n", {"tenant": "t"}),
        ("OpenAI-Organization: t\r\n", {"user": "t"}))):
    refused(f"local_only_{i}", post(chat_body("SMUGGLED", "far", **fields), LOCAL + extra), 400, 404, 503)


def local_only_and_anothers_key(_):
    """Two credentials, one of which may go where the other may not: neither order gets there."""
    for first, second in ((LOCAL, AUTH), (AUTH, LOCAL)):
        c = stage.connect()
        c.send(post(chat_body("SMUGGLED", "far"), first + second))
        r = c.reply()
        assert r.status in (400, 401), r.status
        c.close()
    stage.unharmed()
    assert not stage.remote.posts


case("local_only_with_anothers_key", local_only_and_anothers_key)


def not_even_named(_):
    c = stage.connect()
    c.send(head(method="GET", path="/v1/models", auth=LOCAL).encode())
    assert [m["id"] for m in json.loads(c.reply().body)["data"]] == ["m", "h"]
    c.send(head(method="GET", path="/v1/models/far", auth=LOCAL).encode())
    assert c.reply().status == 404
    c.send(post(chat_body("x", "far"), LOCAL))
    c.reply()
    c.close()
    stage.unharmed()
    assert not stage.remote.posts


case("local_only_sees_no_remote_model", not_even_named)


def connection_keeps_no_identity(_):
    """What one request of a connection may, the next one may not: no credential is remembered."""
    c = stage.connect()
    c.send(head(LENGTH).encode() + BODY.encode() + post(chat_body("SMUGGLED"), ""))
    assert c.reply().status == 200
    assert c.reply().status == 401
    c.close()
    stage.unharmed((BODY,))


case("auth_is_not_remembered", connection_keeps_no_identity)

# ---- injection into what we write ourselves ---------------------------------------------------------------------------

INJECTION = "m\r\nX-Evil: 1\r\n\r\nPOST /v1/chat/completions HTTP/1.1\r\n"


def escaped_in_answer(r):
    """The name comes back as text in JSON at most."""
    assert "\r" not in json.dumps(r.headers) and not any("evil" in v.lower() for v in r.headers.values()), r.headers


for i, model in enumerate((INJECTION, "m\nX: y", "m\rX: y", "m\x7f", "m ", " m", "M", "m\u2028", "../m", "m%00", "m" * 5000,
                           "\u001b[31m", "m\u0000x", "m\"}],\"x\":\"")):
    refused(f"model_name_{i}", post(chat_body("x", model)), 400, 404, check=lambda r: escaped_in_answer(
        Reply(r.status, r.headers, b"")))
framing("request_id_bare_lf", head("X-Request-Id: a\nX-Evil: b", LENGTH) + BODY)
framing("request_id_bare_cr", head("X-Request-Id: a\rX-Evil: b", LENGTH) + BODY)
framing("traceparent_bare_lf", head("traceparent: 00-0\nX-Evil: b", LENGTH) + BODY)
framing("traceparent_nul", head("traceparent: 00-\x00", LENGTH) + BODY)
for i, lines in enumerate((
        ["X-Request-Id: mine"], ["X-Request-Id: a%0d%0aX-Evil: b"], ["traceparent: nonsense", "tracestate: x=y"],
        ["traceparent: 00-" + "g" * 32 + "-" + "0" * 16 + "-01"], ["traceparent: 00-" + "0" * 32 + "-" + "0" * 16 + "-01"],
        ["traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01" + "-evil" * 50],
        ["baggage: a=b", "Cookie: c=d", "X-Evil: e", "Forwarded: for=1.2.3.4", "Via: 1.1 evil"],
        ["X-Client-Request-Id: \u00e9\u00ff{}\"'"], ["Accept: x", "Content-Type: text/evil", "User-Agent: evil"],
        ["spillway_resume: 1", "X-Spillway-Resume: 1", "X-Spillway-Node: good"])):
    harmless(f"header_{i}", head(*lines, LENGTH) + BODY, BODY)


def odd_configuration(args):
    """Names that would become headers are refused before anything starts."""
    bad = {"upstream_model": '"x\\r\\nX-Evil: 1"', "name": '"a\\r\\nX-Evil: 1"', "models": '["m\\r\\nX-Evil: 1"]',
           "url": '"http://127.0.0.1:1/\\r\\nX-Evil:1"'}
    for key, value in bad.items():
        fields = {"name": "a", "url": "http://127.0.0.1:1", "models": "[m]", **{key: value}}
        path = os.path.join(stage.folder, "bad.yaml")
        with open(path, "w") as f:
            f.write("auth: off\nnodes:\n  - " + "\n    ".join(f"{k}: {v}" for k, v in fields.items()) + "\n")
        p = subprocess.run([os.path.join(args.build, "spillway"), "check", "--config", path], capture_output=True,
                           timeout=20)
        assert p.returncode == 2 and key.encode() in p.stdout + p.stderr, (key, p)


case("configured_names_hold_no_lines", odd_configuration)

# ---- JSON -------------------------------------------------------------------------------------------------------------

MESSAGES = '"messages":[{"role":"user","content":"x"}]'
for name, text in (
        ("two_models", f'{{"model":"m","model":"far",{MESSAGES}}}'),
        ("two_models_escaped", f'{{"model":"m","mod\\u0065l":"far",{MESSAGES}}}'),
        ("two_streams", f'{{"model":"m","stream":false,"stream":true,{MESSAGES}}}'),
        ("two_messages", f'{{"model":"m",{MESSAGES},{MESSAGES}}}'),
        ("two_keys_deep", f'{{"model":"m",{MESSAGES},"a":[{{"b":{{"c":1,"c":2}}}}]}}'),
        ("deep_objects", f'{{"model":"m",{MESSAGES},"a":' + '{"a":' * 5000 + "1" + "}" * 5000 + "}"),
        ("deep_arrays", f'{{"model":"m",{MESSAGES},"a":' + "[" * 200000 + "]" * 200000 + "}"),
        ("deep_unclosed", "[" * 500000),
        ("huge_max_tokens", f'{{"model":"m","max_tokens":99999999999999999999,{MESSAGES}}}'),
        ("endless_max_tokens", f'{{"model":"m","max_tokens":1e999,{MESSAGES}}}'),
        ("negative_max_tokens", f'{{"model":"m","max_tokens":-1,{MESSAGES}}}'),
        ("fraction_max_tokens", f'{{"model":"m","max_tokens":1.5,{MESSAGES}}}'),
        ("lone_high_surrogate", '{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}'),
        ("lone_low_surrogate", '{"model":"m","messages":[{"role":"user","content":"\\udc00 x"}]}'),
        ("surrogates_swapped", '{"model":"m","messages":[{"role":"user","content":"\\udc00\\ud800"}]}'),
        ("surrogate_in_utf8", b'{"model":"m","messages":[{"role":"user","content":"\xed\xa0\x80"}]}'),
        ("overlong_utf8", b'{"model":"m","messages":[{"role":"user","content":"\xc0\xaf"}]}'),
        ("latin_1", b'{"model":"m","messages":[{"role":"user","content":"\xe9"}]}'),
        ("bom", b"\xef\xbb\xbf" + BODY.encode()),
        ("utf_16", BODY.encode("utf-16")), ("utf_16_be", BODY.encode("utf-16-be")), ("utf_32", BODY.encode("utf-32")),
        ("nan", f'{{"model":"m","temperature":NaN,{MESSAGES}}}'),
        ("infinity", f'{{"model":"m","temperature":Infinity,{MESSAGES}}}'),
        ("hex_number", f'{{"model":"m","n":0x10,{MESSAGES}}}'),
        ("plus_number", f'{{"model":"m","n":+1,{MESSAGES}}}'),
        ("trailing_data", BODY + BODY), ("trailing_comma", BODY[:-1] + ",}"), ("trailing_letter", BODY + "x"),
        ("trailing_request", BODY.encode() + SMUGGLED), ("single_quotes", BODY.replace('"', "'")),
        ("comment", BODY[:-1] + "/* x */}"), ("unquoted_key", f'{{model:"m",{MESSAGES}}}'),
        ("nul_in_string", '{"model":"m\\u0000far","messages":[{"role":"user","content":"x"}]}'),
        ("nul_in_key", f'{{"model\\u0000":"m","model":"m",{MESSAGES}}}'),
        ("nul_byte", BODY.replace("m", "m\0", 1)), ("control_in_string", BODY.replace("body", "bo\ndy")),
        ("model_is_a_list", f'{{"model":["m","far"],{MESSAGES}}}'), ("model_is_null", f'{{"model":null,{MESSAGES}}}'),
        ("model_is_a_number", f'{{"model":1,{MESSAGES}}}'), ("array", f"[{BODY}]"), ("string", '"m"'), ("nothing", ""),
        ("blanks", " " * 1000), ("half", BODY[:-2]), ("bad_escape", BODY.replace("body", "\\x41")),
        ("messages_is_a_string", '{"model":"m","messages":"x"}')):
    refused(f"json_{name}", post(text.encode("latin-1") if isinstance(text, str) else text), 400)


def many_values(_):
    """As many values as are allowed cost memory in proportion, and are gone afterwards."""
    before = stage.scheduler.rss_kib()
    text = BODY[:-1] + ',"a":[' + ",".join("[]" for _ in range(140000)) + "]}"
    for _ in range(4):
        c = stage.connect()
        c.send(post(text.encode()))
        assert c.reply().status == 200
        c.close()
    grown = stage.scheduler.rss_kib() - before
    stage.unharmed((text.encode(),) * 4)
    assert grown < (400 if args_sanitized else 100) * 1024, f"{grown} KiB more"


args_sanitized = False
case("json_of_many_values", many_values)



def values_have_a_bound(args):
    """32 MiB of nothing but values, for a model that is not even there: refused or not, others wait less than a quarter of
    a second for what it makes the scheduler do, and it takes memory like its own size, not forty times that."""
    most = (4 if args.sanitized else 1) * 0.25
    for piece in (b"0,", b"[],", b'{"a":0},'):
        with Scheduler(args.build, [node("a", stage.good)]) as s:
            text = b'{"model":"nobody","messages":[{}],"a":[' + piece * ((31 << 20) // len(piece)) + b"0]}"
            until_quick(lambda: longest_wait_beside(s, text), most)
            grown = s.rss_kib() >> 10
            assert args.sanitized or grown < 300, f"{piece!r}: {grown} MiB resident"


def longest_wait_beside(s, text):
    """Of others, for small answers, while this is taken; and no longer than the scheduler has run meanwhile, whatever else the
    machine has done."""
    waits, done = [], threading.Event()

    def others():
        c = Client(s.port)
        while not done.is_set():
            begin, ran = time.monotonic(), run_ns(s.process.pid)
            c.send(b"GET /healthz HTTP/1.1\r\n" + HOST.encode() + b"\r\n")
            assert c.reply().status == 200
            waits.append(min(time.monotonic() - begin, (run_ns(s.process.pid) - ran) / 1e9))
            done.wait(0.005)
        c.close()

    t = threading.Thread(target=others)
    t.start()
    c = Client(s.port)
    c.send(post(text))
    assert c.reply().status in (400, 404, 413)
    c.close()
    done.set()
    t.join()
    return max(waits, default=60)


case("json_values_have_a_bound", values_have_a_bound)


def strangers_bodies(_):
    """Who has no key is told so before a body is asked for or held: else strangers could fill the memory that bounds all
    requests together, and everybody would get 503."""
    for lines in (["Content-Length: 1000000", "Expect: 100-continue"], ["Content-Length: 1000000"], [TE]):
        c = stage.connect()
        c.send(head(*lines, auth="").encode())
        r = c.reply()
        assert r.status == 401, r.status
        assert r.headers["connection"] == "close"
        c.closed()
        c.close()
    stage.unharmed()


case("auth_before_the_body", strangers_bodies)

# ---- a hostile node ---------------------------------------------------------------------------------------------------


def splitting(name, answer, *statuses, stream=False, reached=None):
    """A node answers with this. The client sees one answer of ours: the node's error, or what was well-formed of it."""

    def run(_):
        stage.hostile.scripts.append(answer)
        c = stage.connect()
        c.send(post(chat_body("x", "h", stream=stream)) + b"GET /healthz HTTP/1.1\r\n" + HOST.encode() + b"\r\n")
        r = c.reply()
        assert r.status in (statuses or (502,)), (r.status, r.body)
        assert not {"x-evil", "set-cookie", "location", "server"} & set(r.headers), r.headers
        if r.status != 200:
            is_error(r)
        if r.headers.get("connection") != "close":
            assert b'"ok"' in c.reply().body, "the next answer on this connection is the next request's"
        c.close()
        assert not stage.hostile.scripts
        # The hostile connection is not used again: the next request gets its own answer.
        c = stage.connect()
        c.send(post(chat_body("y", "h")))
        r = c.reply()
        assert r.status == 200 and r.body == GOOD, (r.status, r.body)
        c.close()
        stage.unharmed()

    case(f"node_{name}", run)


def ok(*lines, body=GOOD, status="HTTP/1.1 200 OK"):
    return "\r\n".join((status, "Content-Type: application/json") + lines).encode("latin-1") + b"\r\n\r\n" + body


EVIL = b"HTTP/1.1 200 OK\r\nX-Evil: SMUGGLED\r\nContent-Length: 4\r\n\r\nEVIL"
CL = f"Content-Length: {len(GOOD)}"
GOOD_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
splitting("bare_lf_in_header", ok("X: a\nX-Evil: b", CL))
splitting("bare_cr_in_header", ok("X: a\rX-Evil: b", CL))
splitting("nul_in_header", ok("X: a\0b", CL))
splitting("folded_header", ok("X: a", " X-Evil: b", CL))
splitting("space_before_colon", ok("X : a", CL))
splitting("bare_lf_everywhere", ok(CL).replace(b"\r\n", b"\n"))
splitting("cl_and_te", ok(CL, TE, body=GOOD_CHUNKS))
splitting("te_and_cl", ok(TE, "Content-Length: 3", body=GOOD_CHUNKS))
splitting("cl_twice", ok(CL, CL))
splitting("cl_different", ok(CL, "Content-Length: 5"))
splitting("cl_list", ok(CL + f", {len(GOOD)}"))
splitting("cl_negative", ok("Content-Length: -1"))
splitting("cl_huge", ok("Content-Length: 99999999999999999999"))
splitting("cl_beyond", ok("Content-Length: 9000000000"))
splitting("te_unknown", ok("Transfer-Encoding: gzip, chunked", body=GOOD_CHUNKS))
splitting("te_twice", ok(TE, TE, body=GOOD_CHUNKS))
splitting("te_http_1_0", ok(TE, body=GOOD_CHUNKS, status="HTTP/1.0 200 OK"))
splitting("chunk_sign", ok(TE, body=b"-" + GOOD_CHUNKS))
splitting("chunk_bare_lf", ok(TE, body=GOOD_CHUNKS.replace(b"\r\n", b"\n")))
splitting("chunk_overlong", ok(TE, body=b"%x\r\n%sEVIL\r\n0\r\n\r\n" % (len(GOOD), GOOD)))
splitting("chunk_trailer", ok(TE, body=GOOD_CHUNKS[:-2] + b"X-Evil: 1\r\n\r\n"))
splitting("chunk_cut", ok(TE, body=GOOD_CHUNKS[:-4]))
splitting("status_0", ok(CL, status="HTTP/1.1 000 X"))
splitting("status_999", ok(CL, status="HTTP/1.1 999 X"))
splitting("status_2000", ok(CL, status="HTTP/1.1 2000 X"))
splitting("status_with_sign", ok(CL, status="HTTP/1.1 +200 X"))
splitting("status_line_controls", ok(CL, status="HTTP/1.1 200 \x1b[2J"))
splitting("http_0_9", GOOD)
splitting("http_2", ok(CL, status="HTTP/2 200 OK"))
splitting("switches_protocols", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + ok(CL))
splitting("interim_flood", b"HTTP/1.1 103 Early Hints\r\nX-Evil: 1\r\n\r\n" * 1000 + ok(CL))
splitting("interim_with_body", b"HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nEVIL" + ok(CL))
splitting("interim_is_not_forwarded", b"HTTP/1.1 103 Early Hints\r\nX-Evil: 1\r\n\r\n" * 3 + ok(CL), 200)
splitting("giant_header", ok("X: " + "x" * 100000, CL))
splitting("giant_status_line", ok(CL, status="HTTP/1.1 200 " + "x" * 100000))
splitting("many_headers", ok(*[f"X-{i}: y" for i in range(500)], CL))
splitting("closed_at_once", b"\r\n"[:0] or b"H")
splitting("redirect", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n")
splitting("no_body_status", b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL)
splitting("not_modified", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n")
splitting("headers_are_not_forwarded", ok("X-Evil: 1", "Set-Cookie: a=b", "Server: evil", "Location: /x", CL), 200)
splitting("no_framing", ok(), 200)
splitting("answer_behind_the_answer", ok(CL) + EVIL, 200)
splitting("answers_forever", ok(CL) + EVIL * 5000, 200)
splitting("not_json", ok("Content-Length: 4", body=b"EVIL"))
splitting("error_text_with_lines", ok("Content-Length: 61", status="HTTP/1.1 400 X", body=(
    b'{"error":{"message":"a\\r\\nX-Evil: 1","type":"a\\r\\nb","code":"\\r"}}')[:61]), 400)
splitting("error_without_body", b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", 400)


def until_cut(piece, most):
    """Send until the other side has had enough; more than `most` bytes would mean that it never has."""

    def script(c):
        c.settimeout(20)
        sent = 0
        try:
            c.sendall(script.head)
            while sent < most:
                c.sendall(piece)
                sent += len(piece)
            script.cut = False
        except OSError:
            pass

    script.cut = True
    script.head = b""
    return script


def endless(name, first, piece, most, *statuses, stream=False):
    script = until_cut(piece, most)
    script.head = first
    splitting(name, script, *statuses, stream=stream)

    def check(_):
        assert script.cut, f"took more than {most} bytes"

    case(f"node_{name}_is_cut", check)


endless("endless_head", b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 500 + b"\r\n", 8 << 20)
endless("endless_line", b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000, 8 << 20)
endless("endless_chunk_extension", ok(TE, body=b"5;"), b"x" * 1000, 8 << 20)
endless("endless_chunk_extensions", ok(TE, body=b""), b"1;" + b"x" * 200 + b"\r\n \r\n", 8 << 20)
endless("endless_interim", b"", b"HTTP/1.1 100 Continue\r\n\r\n", 8 << 20)
endless("endless_trailer", ok(TE, body=GOOD_CHUNKS[:-2]), b"X: " + b"x" * 500 + b"\r\n", 8 << 20)
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
endless("endless_event", EVENTS, b"data: " + b"x" * 65536, 64 << 20, stream=True)


def splits_a_stream(_):
    """Data that spells an HTTP answer stays data of the stream; broken chunks end it without a proper end."""
    text = json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "h", "choices": [
        {"index": 0, "finish_reason": None, "delta": {"content": "\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}}]})
    event = b"data: " + text.encode() + b"\n\n"
    first = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Evil: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for tail in (b"-5\r\n", b"5\nhello", b"0\r\nX-Evil: 1\r\n\r\n", b"ffffffffffffffffff\r\n"):
        stage.hostile.scripts.append(first + b"%x\r\n%s\r\n" % (len(event), event) + tail)
        c = stage.connect()
        c.send(post(chat_body("x", "h", stream=True)))
        r = c.reply()  # ends as HTTP says, with an error event in the stream
        assert r.status == 200 and "x-evil" not in r.headers
        assert b"data: [DONE]" not in r.body and b'data: {"error"' in r.body and b"HTTP/1.1 200 OK\\r" in r.body, r.body
        c.close()
    stage.unharmed()


case("node_breaks_a_stream", splits_a_stream)

# ---- the end ----------------------------------------------------------------------------------------------------------


def nothing_came_late(_):
    """All that the nodes ever got is what the cases counted, and the scheduler's own counts agree."""
    stage.unharmed()
    assert len(stage.good.posts) == stage.served
    assert not stage.remote.posts


def admin_port(args):
    """The admin listener: a key without scope admin, or none, gets nothing."""
    keys = [{"id": "k", "sha256": key_hash(KEY), "tenant": "t"},
            {"id": "a", "sha256": key_hash(OTHER_KEY), "tenant": "t", "scope": "admin"}]
    port = free_port()
    with Scheduler(args.build, [node("a", stage.good)], keys=keys, admin={"listen": f"127.0.0.1:{port}"}).ready():
        for lines, want in ((["X: y"], 401), ([AUTH.strip()], (401, 403)), ([f"Authorization: Bearer {OTHER_KEY}"], 200),
                            ([f"Authorization: Bearer {OTHER_KEY}", AUTH.strip()], 400)):
            for path in ("/metrics", "/admin/v1/nodes"):
                c = Client(port)
                c.send(head(*lines, method="GET", path=path, auth="").encode())
                r = c.reply()
                assert r.status in (want if isinstance(want, tuple) else (want,)), (lines, path, r.status)
                c.close()


case("admin_port_wants_an_admin", admin_port)
case("nothing_came_late", nothing_came_late)
case("drains_cleanly", lambda _: stage.tear_down())


def nothing_came_late_over_https(_):
    https_stage.unharmed()
    assert len(https_stage.good.posts) == https_stage.served
    assert not https_stage.remote.posts
    https_stage.tear_down()


https_cases.append(nothing_came_late_over_https)

if __name__ == "__main__":
    import sys

    build = [a for i, a in enumerate(sys.argv) if i and sys.argv[i - 1] == "--build"]
    args_sanitized = bool(build) and any(w in build[0] for w in ("asan", "tsan"))
    try:
        main(__doc__, cases + https_cases)
    finally:
        for s in (stage, https_stage):
            if s.scheduler:
                s.scheduler.close()
