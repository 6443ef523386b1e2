"""Data sets generated from a seed, changes to them, and the comparison of a
restored set with the original."""

import array
import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# The time of the oldest file, in nanoseconds since 1970.
EPOCH = 1_700_000_000_000_000_000

# Descriptions of the sets at scale 1.
S_DIRS, S_FILES_PER_DIR = 2000, 50
L_LEN = 4 * GIB
L_STRIPE = 8 * MIB
M_FILES, M_LEN = 20_000, 5 * GIB
K_DIRS, K_FILES_PER_DIR = 50_000, 20

SETS = {
    "S": "100,000 small files of text",
    "L": "one file of 4 GiB, half of it text",
    "M": "a home folder: 20,000 files, 5 GiB, a tenth of the files twice",
    "K": "a million files of 64 to 512 bytes in 50,000 directories",
}


def make_words(seed=7, count=20_000):
    """Returns 65,536 words with the frequencies of a language. Text of them compresses
    like real text and has no long repetitions."""
    rng = random.Random(seed)
    consonants, vowels = "bcdfghjklmnprstvwz", "aeiou"
    words = set()
    ordered = []
    while len(ordered) < count:
        parts = []
        for _ in range(rng.choice((1, 2, 2, 3, 3, 4))):
            tail = rng.choice(consonants) if rng.random() < 0.3 else ""
            parts.append(rng.choice(consonants) + rng.choice(vowels) + tail)
        word = "".join(parts)
        if word not in words:
            words.add(word)
            ordered.append(word)
    ordered.sort(key=lambda word: len(word) + rng.random() * 4)
    weights = [1 / (rank + 3) for rank in range(count)]
    total, slots, until = sum(weights), [], 0.0
    for word, weight in zip(ordered, weights):
        until += weight / total * 65536
        while len(slots) < until and len(slots) < 65536:
            slots.append((word + " ").encode())
    slots.extend([b"the "] * (65536 - len(slots)))
    for index in range(0, 65536, 97):
        slots[index] = slots[index][:-1] + b".\n"
    return slots


_WORDS = None


def text(rng, length):
    """Returns `length` bytes of text."""
    global _WORDS
    if _WORDS is None:
        _WORDS = make_words()
    parts, have = [], 0
    while have < length:
        count = max(16, min(1 << 20, (length - have) // 5 + 8))
        part = b"".join(map(_WORDS.__getitem__, array.array("H", rng.randbytes(2 * count))))
        parts.append(part)
        have += len(part)
    return b"".join(parts)[:length]


def put(path, content, modified):
    with open(path, "wb") as file:
        file.write(content)
    os.utime(path, ns=(modified, modified))


def make_small(root, scale, seed, part, parts):
    for number in range(part, max(4, int(S_DIRS * scale)), parts):
        rng = random.Random(f"{seed}-S-{number}")
        directory = f"{root}/a{number % 20:02d}/d{number:05d}"
        os.makedirs(directory, exist_ok=True)
        for index in range(S_FILES_PER_DIR):
            log_uniform = int(512 * 40 ** rng.random())
            length = log_uniform if index % 3 == 0 else rng.randint(512, 20 * KIB - 1)
            modified = EPOCH + rng.randrange(10**16)
            put(f"{directory}/f{index:03d}.txt", text(rng, length), modified)


def make_large(root, scale, seed, part, parts):
    length = max(2, int(L_LEN * scale) // L_STRIPE) * L_STRIPE
    os.makedirs(root, exist_ok=True)
    fd = os.open(root + "/big.bin", os.O_CREAT | os.O_WRONLY, 0o644)
    for stripe in range(part, length // L_STRIPE, parts):
        rng = random.Random(f"{seed}-L-{stripe}")
        content = rng.randbytes(L_STRIPE) if stripe % 2 else text(rng, L_STRIPE)
        os.pwrite(fd, content, stripe * L_STRIPE)
    os.close(fd)
    os.utime(root + "/big.bin", ns=(EPOCH, EPOCH))


def plan_mixed(scale, seed):
    """Returns path, length, kind and seed of every file. A copy has the seed of its
    original."""
    rng = random.Random(f"{seed}-M-plan")
    count, total = max(50, int(M_FILES * scale)), M_LEN * scale
    longest = 200 * MIB
    lengths = [min(longest, math.exp(rng.gauss(math.log(20 * KIB), 2.2))) for _ in range(count)]
    for _ in range(30):
        factor = total / sum(lengths)
        lengths = [min(longest, length * factor) for length in lengths]
    tops = ["Documents", "Pictures", "Music", "Videos", "src"]
    tops += ["Downloads", "mail", ".config", "work", "old"]
    plan, originals = [], []
    for index, length in enumerate(lengths):
        length = max(1, int(length))
        directory = f"{tops[int(rng.random() * len(tops))]}/{rng.randrange(12):02d}"
        if rng.random() < 0.6:
            directory += f"/{rng.randrange(8)}"
        kind = "text" if rng.random() < 0.45 else "noise"
        if index > 20 and rng.random() < 0.10:
            original = rng.choice(originals)
            name = f"{directory}/copy{index:06d}.dat"
            plan.append((name, plan[original][1], plan[original][2], original))
        else:
            originals.append(index)
            name = f"{directory}/file{index:06d}." + ("txt" if kind == "text" else "jpg")
            plan.append((name, length, kind, index))
    return plan


def fifth_of(plan):
    """Returns the top directory whose size is nearest to a fifth of the set."""
    tops = {}
    for path, length, _, _ in plan:
        top = path.split("/")[0]
        tops[top] = tops.get(top, 0) + length
    total = sum(tops.values())
    return min(tops, key=lambda top: abs(tops[top] / total - 0.2))


def make_mixed(root, scale, seed, part, parts):
    for index, (path, length, kind, original) in enumerate(plan_mixed(scale, seed)):
        if index % parts != part:
            continue
        rng = random.Random(f"{seed}-M-{original}")
        os.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
        content = text(rng, length) if kind == "text" else rng.randbytes(length)
        put(f"{root}/{path}", content, EPOCH + index * 10**9 + 123456789)


def make_many(root, scale, seed, part, parts):
    for number in range(part, max(4, int(K_DIRS * scale)), parts):
        rng = random.Random(f"{seed}-K-{number}")
        directory = f"{root}/a{number % 100:02d}/d{number:05d}"
        os.makedirs(directory, exist_ok=True)
        for index in range(K_FILES_PER_DIR):
            content = text(rng, rng.randint(64, 512))
            put(f"{directory}/f{index:02d}.txt", content, EPOCH + rng.randrange(10**16))


MAKERS = {"S": make_small, "L": make_large, "M": make_mixed, "K": make_many}


def make_set(work, name, scale, seed):
    """Makes a set unless it exists. Returns its path, and its number of files and bytes."""
    root = f"{work}/data/{name}-{scale:g}-{seed}"
    mark = root + ".complete"
    if not os.path.exists(mark):
        shutil.rmtree(root, ignore_errors=True)
        makers = [
            multiprocessing.Process(target=MAKERS[name], args=(root, scale, seed, part, 2))
            for part in range(2)
        ]
        for maker in makers:
            maker.start()
        for maker in makers:
            maker.join()
        if any(maker.exitcode for maker in makers):
            raise RuntimeError(f"the data set {name} could not be made")
        files = length = 0
        for directory, _, names in os.walk(root, topdown=False):
            for file in names:
                files += 1
                length += os.path.getsize(f"{directory}/{file}")
            os.utime(directory, ns=(EPOCH, EPOCH))
        with open(mark + ".new", "w") as file:
            json.dump({"files": files, "bytes": length}, file)
        os.replace(mark + ".new", mark)
        os.sync()
    with open(mark) as file:
        return root, json.load(file)


# ------------------------------------------------------------------ changes


class Change:
    """A reversible change of a data set. `paths` are the affected files, relative to
    the root."""

    def __init__(self, root, paths, undo, times):
        self.root, self.paths, self._undo, self._times = root, paths, undo, times

    def undo(self):
        """Restores the set completely, including the times of directories."""
        self._undo()
        for directory, modified in self._times.items():
            os.utime(directory, ns=(modified, modified))


def times_of(directories):
    return {directory: os.stat(directory).st_mtime_ns for directory in set(directories)}


def texts(root):
    found = (f"{d}/{name}" for d, _, names in os.walk(root) for name in names)
    return sorted(path for path in found if path.endswith(".txt"))


def edit(root, count, seed):
    """Edits `count` files in the middle and appends to them."""
    rng = random.Random(f"{seed}-edit-{count}")
    picked = rng.sample(texts(root), count)
    before = {}
    for path in picked:
        with open(path, "rb") as file:
            content = file.read()
        before[path] = content, os.stat(path).st_mtime_ns
        middle = len(content) // 2
        new = bytearray(content)
        new[middle : middle + 100] = text(rng, 100)
        with open(path, "r+b") as file:
            file.write(new + text(rng, 50))

    def undo():
        for path, (content, modified) in before.items():
            put(path, content, modified)

    return Change(root, [os.path.relpath(path, root) for path in picked], undo, {})


def delete(root, count, seed):
    """Deletes `count` files."""
    rng = random.Random(f"{seed}-delete")
    picked = rng.sample(texts(root), count)
    times = times_of(os.path.dirname(path) for path in picked)
    before = {}
    for path in picked:
        with open(path, "rb") as file:
            before[path] = file.read(), os.stat(path).st_mtime_ns
        os.unlink(path)

    def undo():
        for path, (content, modified) in before.items():
            put(path, content, modified)

    return Change(root, [os.path.relpath(path, root) for path in picked], undo, times)


def insert(root, seed):
    """Inserts 1 KiB in the middle of the large file and appends 1 MiB."""
    rng = random.Random(f"{seed}-insert")
    path = root + "/big.bin"
    length, modified = os.path.getsize(path), os.stat(path).st_mtime_ns
    middle, added = length // 2, 1024
    with open(path, "r+b") as file:
        at = length
        while at > middle:
            start = max(middle, at - L_STRIPE)
            file.seek(start)
            moved = file.read(at - start)
            file.seek(start + added)
            file.write(moved)
            at = start
        file.seek(middle)
        file.write(rng.randbytes(added))
        file.seek(0, os.SEEK_END)
        file.write(rng.randbytes(MIB))

    def undo():
        with open(path, "r+b") as file:
            at = middle
            while at < length:
                file.seek(at + added)
                moved = file.read(min(L_STRIPE, length - at))
                file.seek(at)
                file.write(moved)
                at += len(moved)
            file.truncate(length)
        os.utime(path, ns=(modified, modified))

    return Change(root, ["big.bin"], undo, {})


def scatter(root, scale, seed):
    """Writes 4 KiB of noise to many places of the longest files, as a virtual machine
    writes to its disk image, or a program to its database."""
    rng = random.Random(f"{seed}-scatter")
    found = [f"{d}/{name}" for d, _, names in os.walk(root) for name in names]
    longest = sorted(found, key=lambda path: (-os.path.getsize(path), path))[:4]
    before = []
    for number in range(max(8, int(4000 * scale))):
        path = longest[number % len(longest)]
        at = rng.randrange(max(1, os.path.getsize(path) - 4 * KIB))
        modified = os.stat(path).st_mtime_ns
        with open(path, "r+b") as file:
            file.seek(at)
            before.append((path, at, file.read(4 * KIB), modified))
            file.seek(at)
            file.write(rng.randbytes(len(before[-1][2])))

    def undo():
        for path, at, content, modified in reversed(before):
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(content)
            os.utime(path, ns=(modified, modified))

    paths = sorted({os.path.relpath(path, root) for path, *_ in before})
    return Change(root, paths, undo, {})


def rename(root, scale, seed):
    """Renames a directory with a fifth of all bytes."""
    top = fifth_of(plan_mixed(scale, seed))
    old, new = f"{root}/{top}", f"{root}/{top}-renamed"
    times = times_of([root])
    os.rename(old, new)
    return Change(root, [], lambda: os.rename(new, old), times)


# ------------------------------------------------------------------ comparison


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(4 * MIB):
            sha.update(block)
    return sha.hexdigest()


def describe(root, ignore=lambda name: False):
    """Maps each path to its content, mode, owner, and time in nanoseconds."""
    found, files = {}, []
    for directory, directories, names in os.walk(root):
        directories[:] = [name for name in directories if not ignore(name)]
        for name in directories + [name for name in names if not ignore(name)]:
            path = f"{directory}/{name}"
            status = os.lstat(path)
            meta = status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns
            relative = os.path.relpath(path, root)
            if os.path.islink(path):
                found[relative] = "link " + os.readlink(path), meta
            elif os.path.isdir(path):
                found[relative] = "directory", meta
            else:
                files.append((path, relative, meta))
    with ThreadPoolExecutor(2) as pool:
        digests = pool.map(digest, [path for path, _, _ in files], chunksize=64)
        for (_, relative, meta), content in zip(files, digests):
            found[relative] = content, meta
    return found


def compare(wanted, got):
    """Counts the differences. `identical` covers paths and contents only, because not
    every system is meant to keep all metadata."""
    missing = [path for path in wanted if path not in got]
    extra = [path for path in got if path not in wanted]
    both = [path for path in wanted if path in got]
    content = [path for path in both if wanted[path][0] != got[path][0]]
    metadata = [path for path in both if wanted[path][1] != got[path][1]]
    return {
        "identical": not (missing or extra or content),
        "missing": len(missing),
        "extra": len(extra),
        "content": len(content),
        "metadata": len(metadata),
        "examples": (missing + extra + content + metadata)[:4],
    }
