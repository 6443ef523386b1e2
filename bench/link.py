"""A long thin link between two ends on one machine: connections go through
here, and come out later and slower.

Each direction has a rate and a delay. It is TCP that ends here and begins anew,
so nothing is lost and no window has to grow: a real link is worse, the same for
everybody. It needs no module of the kernel; but programs that tell each other
their addresses would go past it, so a rule of nftables lets nobody else connect
to what it leads to, and that takes root."""

import asyncio
import multiprocessing
import os
import shutil
import subprocess
import time

READ = 16 << 10
# What may be on the way beyond what rate and delay hold, in bytes: the buffer
# of a router.
BUFFER = 256 << 10
# Where the link's own connections come from, which are the only ones allowed.
SOURCE = "127.0.0.2"


class Direction:
    """The bytes of all connections in one direction share the rate."""

    def __init__(self, rate, delay, counter):
        self.rate, self.delay, self.counter = rate, delay, counter
        self.free_at = 0.0

    def arrival(self, length):
        """When so many bytes that leave now have arrived."""
        now = time.monotonic()
        self.free_at = max(self.free_at, now) + length / self.rate
        self.counter.value += length
        return self.free_at + self.delay

    async def carry(self, reader, writer, handshake):
        """Until one side closes. Nothing leaves before the handshake, which takes
        so long."""
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
    """Listens on each route's port and connects to where it leads."""
    there, here = Direction(rate, delay, forth), Direction(rate, delay, back)

    async def one(target, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", target, local_addr=(SOURCE, 0)
            )
        except OSError:
            writer.close()
            return
        # SYN and its answer travel first.
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
    """`routes` are pairs of ports: where to listen, and where that leads."""

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
        """What is missing for a link that nobody goes past."""
        if os.geteuid() != 0 or shutil.which("nft") is None:
            return "W takes root and `nft`"
        return None

    def bytes(self):
        """What was carried, both ways, without headers."""
        return self.forth.value + self.back.value

    def close(self):
        if self.table is not None:
            subprocess.run(["nft", "delete", "table", "inet", self.table], check=False)
            self.table = None
        self.process.terminate()
        self.process.join()
