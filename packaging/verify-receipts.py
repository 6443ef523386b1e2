#!/usr/bin/env python3
"""Verifies the output of `archivist receipts --json` without Archivist.

Checks each receipt: the signature of the backup server, the signature of the source over the
manifest, and the link to the receipt before it. The form is in docs/formats/receipt.md.
"""
import base64, hashlib, json, sys
P = 2**256 - 2**32 - 977  # The curve secp256k1 (SEC 2).
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
     0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)
B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

def check(is_true, problem):
    if not is_true: raise ValueError(problem)
def add(a, b):
    if a is None or b is None: return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0: return None
    m = (3 * a[0]**2 * pow(2 * a[1], P - 2, P) if a == b else (b[1] - a[1]) * pow(b[0] - a[0], P - 2, P)) % P
    x = (m * m - a[0] - b[0]) % P
    return x, (m * (a[0] - x) - a[1]) % P
def mul(k, a):
    r = None
    while k:
        if k & 1: r = add(r, a)
        a, k = add(a, a), k >> 1
    return r
def peer(text):  # The bytes of a peer id: an identity multihash of the public key.
    return sum(B58.index(c) * 58**i for i, c in enumerate(reversed(text))).to_bytes(39, "big")

def verify(peer_id, message, signature):
    key, der = peer(peer_id), base64.b64decode(signature)  # der: 30 len 02 len r 02 len s
    check(key[:6] == bytes([0, 37, 8, 2, 18, 33]), "not a secp256k1 key")
    x = int.from_bytes(key[7:], "big")
    y = pow(x**3 + 7, (P + 1) // 4, P)
    check((y * y - x**3 - 7) % P == 0 and key[6] in (2, 3), "not a point of the curve")
    r, s = int.from_bytes(der[4:4 + der[3]], "big"), int.from_bytes(der[6 + der[3]:], "big")
    check(0 < r < N and 0 < s < N, "not a signature")
    z, w = int.from_bytes(hashlib.sha256(message).digest(), "big"), pow(s, N - 2, N)
    point = add(mul(z * w % N, G), mul(r * w % N, (x, y if y % 2 == key[6] % 2 else P - y)))
    check(point and point[0] % N == r, "wrong signature")

newest, problems, entries = {}, 0, json.load(sys.stdin)  # archivist receipts --json | this script
for entry in entries:
    text = entry["receipt"].encode()
    r, signed = json.loads(text), b"archivist receipt 1\n" + text
    chain = r["backup_server"], r["source"], r["folder"]
    cid = base64.b32decode(r["manifest"][1:].upper() + "=" * (-len(r["manifest"][1:]) % 8))
    parts = b"archivist manifest signature 1", peer(r["source"]), r["folder"].encode(), r["sequence"].to_bytes(8, "little"), cid
    try:
        verify(r["backup_server"], signed, entry["signature"])
        verify(r["source"], b"".join(len(p).to_bytes(4, "little") + p for p in parts), r["manifest_signature"])
        check((r["number"] - 1, r["previous"]) == newest.get(chain, (0, None)), "does not follow the receipt before it")
    except (IndexError, ValueError) as error:
        print(f"folder {r['folder']}, receipt {r['number']}: {error}")
        problems += 1
    newest[chain] = r["number"], hashlib.sha256(signed).hexdigest()
print(f"{len(entries)} receipts in {len(newest)} chains, {problems} problems")
sys.exit(problems > 0)
