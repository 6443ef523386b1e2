"""Tests of the harness: `python3 -m unittest` in this directory."""

import asyncio
import io
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

sys.dont_write_bytecode = True

import data  # noqa: E402
import link  # noqa: E402
import meter  # noqa: E402
import peers  # noqa: E402


class Sets(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.work = self.directory.name
        os.makedirs(self.work + "/data")

    def tearDown(self):
        self.directory.cleanup()

    def test_a_seed_makes_the_same_again(self):
        with tempfile.TemporaryDirectory() as other:
            os.makedirs(other + "/data")
            for name in data.SETS:
                first, info = data.make_set(self.work, name, 0.0005, 1)
                second, _ = data.make_set(other, name, 0.0005, 1)
                wanted, got = data.describe(first), data.describe(second)
                self.assertEqual(wanted, got)
                files = sum(content != "directory" for content, _ in wanted.values())
                self.assertEqual(files, info["files"])

    def test_each_change_changes_what_it_says_and_can_be_taken_back(self):
        scale, seed = 0.002, 1
        for name in data.SETS:
            root, _ = data.make_set(self.work, name, scale, seed)
            before = data.describe(root)
            for label, change in peers.steps(name, scale, seed):
                if change is None:
                    continue
                done = change(root)
                found = data.compare(before, data.describe(root))
                if label == "rename":
                    self.assertEqual(found["missing"], found["extra"])
                    self.assertGreater(found["missing"], 0)
                else:
                    self.assertEqual(found["missing"] + found["content"], len(done.paths), label)
                done.undo()
                self.assertEqual(before, data.describe(root), label)

    def test_writes_here_and_there_can_be_taken_back(self):
        root, _ = data.make_set(self.work, "M", 0.002, 1)
        before = data.describe(root)
        done = data.scatter(root, 0.002, 1)
        found = data.compare(before, data.describe(root))
        self.assertEqual((found["missing"], found["extra"]), (0, 0))
        self.assertEqual(found["content"], len(done.paths))
        self.assertEqual(len(done.paths), 4)
        done.undo()
        self.assertEqual(before, data.describe(root))

    def test_what_differs_is_found(self):
        root, _ = data.make_set(self.work, "S", 0.001, 1)
        before = data.describe(root)
        paths = data.texts(root)
        with open(paths[0], "ab") as file:
            file.write(b"x")
        os.unlink(paths[1])
        os.utime(paths[2], ns=(0, 1))
        os.chmod(paths[3], 0o600)
        with open(root + "/new", "wb"):
            pass
        found = data.compare(before, data.describe(root))
        self.assertFalse(found["identical"])
        self.assertEqual((found["missing"], found["extra"], found["content"]), (1, 1, 1))
        # The times of both files, the mode of one, and the file with new content.
        self.assertGreaterEqual(found["metadata"], 3)


class Measuring(unittest.TestCase):
    def test_cpu_and_memory_of_children_count_for_their_side(self):
        measured = meter.Meter([])
        program = "x = bytearray(50 << 20)\nfor i in range(5_000_000): pass\nimport time; time.sleep(0.3)"
        script = f"{sys.executable} -c '{program}'; true"
        with open(os.devnull, "wb") as log:

            def work():
                process = measured.spawn("B", ["sh", "-c", script], log)
                self.assertEqual(measured.wait("B", process), 0)

            cost = measured.measure(work)
        measured.close()
        self.assertGreater(cost["cpu_b"], 0.02)
        self.assertEqual(cost["cpu_a"], 0)
        self.assertGreater(cost["rss_b"], 50 << 20)

    def test_what_does_not_end_by_itself_is_ended(self):
        measured = meter.Meter([])
        with open(os.devnull, "wb") as log:
            process = measured.spawn("A", ["sleep", "1000"], log)
            measured.stop("A", process)
        self.assertEqual(measured.pids("A"), [])
        measured.close()


class NoWaiting(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next scheduled event."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = self._scheduled[0].when()
        super()._run_once()


class LongLink(unittest.TestCase):
    def test_it_is_as_slow_as_it_says_and_loses_nothing(self):
        target = socket.create_server(("127.0.0.1", 0))
        received = io.BytesIO()

        def take():
            connection, _ = target.accept()
            while block := connection.recv(1 << 16):
                received.write(block)
            connection.sendall(b"thanks")
            connection.close()

        taker = threading.Thread(target=take)
        taker.start()
        port = meter.free_port()
        # 1 MB/s and 100 ms: 300 kB take 0.3 s, and the handshake a round trip.
        long_link = link.Link([(port, target.getsockname()[1])], 8_000_000, 0.1, alone=False)
        content = os.urandom(300_000)
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(client.recv(100), b"thanks")
        took = time.monotonic() - started
        taker.join()
        target.close()
        self.assertEqual(received.getvalue(), content)
        self.assertEqual(long_link.bytes(), 300_006)
        self.assertGreaterEqual(took, 0.45)
        long_link.close()

    def test_whoever_has_connected_sends_as_fast_as_whoever_was_connected_to(self):
        """Regression test: the handshake was once added to everything that the connecting
        side sends. Because the bytes in transit are bounded, only a part of the rate was
        left."""

        async def seconds(handshake):
            direction = link.Direction(20e6, 0.1, multiprocessing.Value("q", 0))
            reader = asyncio.StreamReader()
            reader.feed_data(bytes(8_000_000))
            reader.feed_eof()
            await direction.carry(reader, mock.Mock(drain=mock.AsyncMock()), handshake)
            return asyncio.get_running_loop().time()

        with asyncio.Runner(loop_factory=NoWaiting) as runner:
            clock = mock.Mock(monotonic=runner.get_loop().time)
            with mock.patch.object(link, "time", clock):
                at_once = runner.run(seconds(0))
                later = runner.run(seconds(0.2)) - at_once
        self.assertAlmostEqual(at_once, 0.5, 2)
        self.assertAlmostEqual(later, 0.7, 2)


class Report(unittest.TestCase):
    def test_ratios_are_to_the_copy_of_the_same_set_and_failures_are_shown(self):
        def cell(system, seconds, **more):
            cost = {"durable": seconds, "cpu_a": 1, "cpu_b": 2, "rss_a": 3e6, "rss_b": 4e6}
            cost.update(wire=None, stored=5e6)
            shape = {"set": "S", "scale": 1, "files": 10, "bytes": 1e6}
            return {"system": system, **shape, "operations": {"first": cost}, **more}

        same = {"identical": True, "metadata": 0}
        text = peers.tables([cell("cp", 2.0), cell("x", 3.0, compared=same, error="broke")])
        self.assertIn("| x | 1 | 3.00 (3.00–3.00) | 1.50 |", text)
        self.assertIn("1 of 1 restores were identical", text)
        self.assertIn("Failed: x: broke", text)


if __name__ == "__main__":
    unittest.main()
