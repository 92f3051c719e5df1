"""Engines that take time and no processor: what the scheduler makes of its fleet can then be measured on a machine that has other
work to do. Each speaks as much of docs/NODE_API.md as the power ladder needs: health, a card, /sleep, /wake_up, requests that
wake it; a token comes every so often, whatever the batch; more requests than slots wait for each other."""

import asyncio
import json
import threading

CHUNK = 'data: {{"id":"c","object":"chat.completion.chunk","created":1,"model":"synth","choices":[{{"index":0,"delta":{delta},"finish_reason":{end}}}]}}\n\n'


class StandIn:
    """One of them. All of it runs on one loop; `awake` and `wakes` may be read from anywhere."""

    def __init__(self, slots, step_s, prompt_s, wake_s):
        self.slots, self.step_s, self.prompt_s, self.wake_s = slots, step_s, prompt_s, wake_s
        self.state, self.running, self.port = "ok", 0, None
        self.room, self.up = asyncio.Semaphore(slots), asyncio.Event()
        self.up.set()

    @property
    def awake(self):
        return self.state != "asleep"

    def sleep(self):
        if self.state == "ok":
            self.state = "falling_asleep"
            self.up.clear()
            self.settle()
        return self.state

    def settle(self):
        if self.state == "falling_asleep" and self.running == 0:
            self.state = "asleep"

    def wake(self):
        if self.state == "falling_asleep":
            self.state = "ok"
            self.up.set()
        elif self.state == "asleep":
            self.state = "waking"
            asyncio.get_running_loop().call_later(self.wake_s, self.woken)
        return {"ok": "awake"}.get(self.state, self.state)

    def woken(self):
        self.state = "ok"
        self.up.set()

    async def answer(self, body, out):
        self.wake()
        await self.up.wait()
        self.running += 1
        try:
            async with self.room:
                await self.say(json.loads(body), out)
        finally:
            self.running -= 1
            self.settle()

    async def say(self, q, out):
        said, end = q.get("max_tokens", 16), asyncio.get_running_loop().time()
        read = sum(len(m["content"]) for m in q["messages"]) if "messages" in q else len(q["prompt"])
        usage = {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}
        stream = q.get("stream")
        if stream:
            out.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        end += read * self.prompt_s
        for i in range(said):
            end += self.step_s
            await asyncio.sleep(max(0, end - asyncio.get_running_loop().time()))
            if stream:
                out.write(CHUNK.format(delta='{"content":"x"}', end='"length"' if i + 1 == said else "null").encode())
                await out.drain()
        if stream:
            out.write(("data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "synth", "choices": [],
                                              "usage": usage}) + "\n\ndata: [DONE]\n\n").encode())
        else:
            reply(out, 200, {"id": "c", "object": "chat.completion", "created": 1, "model": "synth", "usage": usage, "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "x" * said}, "finish_reason": "length"}]})

    async def serve(self, reader, out):
        try:
            while await self.one(reader, out):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            out.close()

    async def one(self, reader, out):
        """One exchange; false: the connection ends with it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        length = [x.split(":")[1] for x in head.lower().splitlines() if x.startswith("content-length:")]
        body = await reader.readexactly(int(length[0])) if length else b""
        if method == "POST" and path.startswith("/v1/"):
            await self.answer(body, out)
            await out.drain()
            return False
        if method == "POST":
            reply(out, 202, {"state": self.sleep() if path == "/sleep" else self.wake()})
        elif path == "/health":
            reply(out, 200, {"status": self.state})
        elif path == "/v1/models":
            reply(out, 200, {"object": "list", "data": [{"id": "synth", "object": "model", "created": 1, "owned_by": "x",
                                                         "spillway_slots": self.slots, "spillway_resume": False}]})
        else:
            reply(out, 404, {"error": {"message": "there is no such page"}})
        await out.drain()
        return True


def reply(out, status, value):
    text = json.dumps(value).encode()
    out.write(f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)


class StandIns:
    """So many, on a thread of their own."""

    def __init__(self, n, *how):
        self.loop, self.all, there = asyncio.new_event_loop(), [], threading.Event()

        async def start():
            for _ in range(n):
                s = StandIn(*how)
                server = await asyncio.start_server(s.serve, "127.0.0.1", 0)
                s.port = server.sockets[0].getsockname()[1]
                self.all.append(s)
            there.set()

        def run():
            asyncio.set_event_loop(self.loop)
            self.loop.create_task(start())
            self.loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        assert there.wait(10)
