"""A slow link with a long delay between two ends on one machine. Connections
pass through this program, which delays and paces them.

Each direction has a rate and a delay. The link terminates TCP and opens a new
connection, so no packet is lost and no window has to grow: a real link is worse,
equally for every system. No kernel module is needed. But programs that exchange
their addresses would bypass the link, so an nftables rule blocks every other
connection to the far end, and that needs root."""

import asyncio
import multiprocessing
import os
import shutil
import subprocess
import time

READ = 16 << 10
# Bytes that can be in transit beyond rate × delay, like the buffer of a router.
BUFFER = 256 << 10
# Source address of the link's own connections, the only ones allowed.
SOURCE = "127.0.0.2"


class Direction:
    """One direction of the link. All of its connections share the rate."""

    def __init__(self, rate, delay, counter):
        self.rate, self.delay, self.counter = rate, delay, counter
        self.free_at = 0.0

    def arrival(self, length):
        """Returns the time at which `length` bytes sent now have arrived."""
        now = time.monotonic()
        self.free_at = max(self.free_at, now) + length / self.rate
        self.counter.value += length
        return self.free_at + self.delay

    async def carry(self, reader, writer, handshake):
        """Forwards data until one side closes. Nothing is sent before the handshake,
        which takes `handshake` seconds, is over."""
        queue = asyncio.Queue()
        limit = int(self.rate * self.delay) + BUFFER
        room = asyncio.Event()
        room.set()
        waiting = 0

        async def take():
            nonlocal waiting
            try:
                await asyncio.sleep(handshake)
                while data := await reader.read(READ):
                    waiting += len(data)
                    if waiting >= limit:
                        room.clear()
                    queue.put_nowait((self.arrival(len(data)), data))
                    await room.wait()
            except ConnectionError:
                pass
            queue.put_nowait((time.monotonic() + self.delay, None))

        taker = asyncio.ensure_future(take())
        try:
            while True:
                at, data = await queue.get()
                left = at - time.monotonic()
                if left > 0:
                    await asyncio.sleep(left)
                if data is None:
                    break
                writer.write(data)
                await writer.drain()
                waiting -= len(data)
                if waiting < limit:
                    room.set()
            writer.write_eof()
        except (ConnectionError, OSError):
            pass
        finally:
            taker.cancel()


def serve(routes, rate, delay, forth, back, ready):
    """Listens on the port of each route and connects to its target."""
    there, here = Direction(rate, delay, forth), Direction(rate, delay, back)

    async def one(target, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", target, local_addr=(SOURCE, 0)
            )
        except OSError:
            writer.close()
            return
        # SYN and its answer are sent first.
        await asyncio.gather(
            there.carry(reader, far_writer, 2 * delay), here.carry(far_reader, writer, 0)
        )
        writer.close()
        far_writer.close()

    async def run():
        for port, target in routes:
            handler = lambda r, w, target=target: one(target, r, w)
            await asyncio.start_server(handler, "127.0.0.1", port, limit=READ)
        ready.set()
        parent = os.getppid()
        while os.getppid() == parent:
            await asyncio.sleep(0.2)

    asyncio.run(run())


class Link:
    """The link. `routes` are pairs of ports: the port to listen on, and its target."""

    def __init__(self, routes, bits_per_sec, round_trip, alone=True):
        self.table = None
        if alone:
            self.table = f"archivist_link_{os.getpid()}"
            ports = ", ".join(str(target) for _, target in routes)
            text = (
                f"table inet {self.table} {{\n"
                "chain out { type filter hook output priority 0; policy accept;\n"
                f"ip saddr != {SOURCE} tcp dport {{ {ports} }} tcp flags & (syn | ack) == syn "
                "reject with tcp reset\n}\n}\n"
            )
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        self.forth = multiprocessing.Value("q", 0, lock=False)
        self.back = multiprocessing.Value("q", 0, lock=False)
        ready = multiprocessing.Event()
        arguments = routes, bits_per_sec / 8, round_trip / 2, self.forth, self.back, ready
        self.process = multiprocessing.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        if not ready.wait(10):
            raise RuntimeError("the link did not come up")

    @staticmethod
    def why_not():
        """Returns the reason why the link cannot be enforced, or `None`."""
        if os.geteuid() != 0 or shutil.which("nft") is None:
            return "W needs root and `nft`"
        return None

    def bytes(self):
        """Returns the bytes transferred in both directions, without headers."""
        return self.forth.value + self.back.value

    def close(self):
        if self.table is not None:
            subprocess.run(["nft", "delete", "table", "inet", self.table], check=False)
            self.table = None
        self.process.terminate()
        self.process.join()
