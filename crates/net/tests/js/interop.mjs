// A js-libp2p node that talks to ours: run by ../interop_js.rs.
//
//   node interop.mjs noise|tls MULTIADDR
//
// Prints one JSON document: what identify told, the time of a ping in
// milliseconds, and what the block protocol answered to a hello and a request.

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { tls } from '@libp2p/tls'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const BLOCKS = '/archivist/blocks/1.0.0'
const LIMIT = 30_000

const [security, address] = process.argv.slice(2)
const encrypters = { noise: noise(), tls: tls() }
if (encrypters[security] === undefined || address === undefined) {
  console.error('usage: interop.mjs noise|tls MULTIADDR')
  process.exit(2)
}
// Whatever hangs ends the script, and with it the test.
setTimeout(() => {
  console.error(`no end after ${LIMIT} ms`)
  process.exit(1)
}, LIMIT).unref()

const node = await createLibp2p({
  addresses: { listen: [] },
  transports: [tcp()],
  connectionEncrypters: [encrypters[security]],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})

const identified = new Promise((resolve) => {
  node.addEventListener('peer:identify', (event) => resolve(event.detail))
})
const connection = await node.dial(multiaddr(address))
const { agentVersion, protocolVersion, protocols } = await identified
const pingMs = await node.services.ping.ping(multiaddr(address))
const answer = await askForABlock(connection)

console.log(JSON.stringify({
  peer: connection.remotePeer.toString(),
  encryption: connection.encryption,
  multiplexer: connection.multiplexer,
  agentVersion,
  protocolVersion,
  protocols,
  pingMs,
  answer
}))
await node.stop()

// Says hello and asks for one block, as docs/formats/wire.md has it; gives
// every byte of the answer, in hexadecimal.
async function askForABlock (connection) {
  const stream = await connection.newStream(BLOCKS)
  const received = []
  const reading = (async () => {
    for await (const chunk of stream) {
      received.push(Buffer.from(chunk.subarray()))
    }
  })()
  const hello = Buffer.from([8, 0, 0, 0, 0x01, 1, 0, 0, 0, 0, 0x40, 0])
  const want = Buffer.concat([Buffer.from([34, 0, 0, 0, 0x02, 0]), Buffer.alloc(32, 7)])
  try {
    stream.send(hello)
    stream.send(want)
    await stream.close()
  } catch {
    // A server that refuses us may have closed its side already.
  }
  try {
    await reading
  } catch {
    // The same; what came before is the answer.
  }
  return Buffer.concat(received).toString('hex')
}
