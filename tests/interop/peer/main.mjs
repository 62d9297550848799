// A node that is not Python: joins the hub named by its arguments, answers what it is asked, and leaves when its
// standard input ends. Reports what happens as lines of JSON on standard output.
//
//   echo '{"hub": "/ip4/.../p2p/...", "secret": "syndb1_...", "name": "foreign", "version": 2}' | node main.mjs

import './promise.mjs'

import { randomBytes, randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline'

import { noise } from '@chainsafe/libp2p-noise'
import { quic } from '@chainsafe/libp2p-quic'
import { yamux } from '@chainsafe/libp2p-yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

import { frame, values } from './frames.mjs'
import { isProof, keyId, keyOf, proof } from './proof.mjs'

const PROTOCOL = '/syndb/rpc/1'
const SOFTWARE = 'foreign-peer/1 (js-libp2p)'
const started = Date.now()
let schemaVersion = 0

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const wanted = JSON.parse((await lines.next()).value)

const dataset = {
  dataset_id: randomUUID(),
  version: 1,
  metadata: { dataset: `${wanted.name}-larva`, title: 'Announced by a peer that is not Python', species: 'Ciona intestinalis' },
  row_counts: { neurons: 177, synapses: 6618 },
  content_hash: '5'.repeat(64),
  schema_version: 1,
  published_at: '2026-01-01T00:00:00+00:00'
}

// This peer stores nothing: of a migration it keeps the number.
function migrate ({ migrations, dry_run: dryRun }) {
  const lacking = migrations.map(({ version }) => version).filter((version) => version > schemaVersion)
  if (!dryRun) {
    schemaVersion = Math.max(schemaVersion, ...lacking)
  }
  return { schema_version: schemaVersion, applied: lacking }
}

const answers = {
  HealthPing: () => ({
    schema_version: schemaVersion,
    engine: 'ok',
    load: 0,
    catalogue_revision: 7,
    ontology_revision: 0,
    clock: Date.now() / 1000,
    uptime_seconds: (Date.now() - started) / 1000,
    software: SOFTWARE,
    registered: true
  }),
  DatasetCatalogRequest: () => ({
    revision: 7,
    page: 0,
    pages: 1,
    versions: [dataset],
    sharing: { [dataset.dataset_id]: 'count' }
  }),
  SchemaSync: migrate,
  OntologySync: ({ revision }) => ({ revision })
}

function report (event, facts = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`)
}

/** Answer the hub's requests on one stream, in turns. */
async function serve (stream) {
  try {
    for await (const { id, type, body } of values(stream)) {
      report('asked', { type })
      const answer = answers[type]
      const refusal = { error: `${type} is not known here`, code: 'unknown_message', hint: '', details: {} }
      stream.send(frame(answer ? { id, ok: answer(body) } : { id, error: refusal }))
    }
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}

/** Ask the hub one thing on a stream of its own. */
async function ask ({ connection, version }, type, body) {
  const stream = await connection.newStream(PROTOCOL)
  const id = randomBytes(16)
  stream.send(frame({ id, type, v: version, seconds: 10.5, body }))
  for await (const response of values(stream)) {
    await stream.close()
    if (!id.equals(response.id)) {
      throw new Error(`${type}: the answer to another request`)
    }
    if (response.error) {
      throw new Error(`${type}: ${JSON.stringify(response.error)}`)
    }
    return response.ok
  }
  throw new Error(`${type}: the stream ended without an answer`)
}

async function join (way, nodePeerId, { hub, secret, name }) {
  const key = keyOf(secret)
  const nodeNonce = randomBytes(32)
  const added = way.version >= 2 ? { key_id: keyId(key) } : {}
  const challenge = await ask(way, 'JoinRequest', {
    cluster_name: name, node_nonce: nodeNonce, protocol_version: way.version, ...added
  })
  const hubPeerId = hub.split('/p2p/')[1]
  const transcript = { nodeNonce, hubNonce: challenge.hub_nonce, nodePeerId, hubPeerId, clusterName: name }
  const registered = await ask(way, 'RegisterCluster', {
    join_id: challenge.join_id,
    node_proof: proof(key, 'node', transcript),
    endpoints: { multiaddrs: [], flight: '', flight_certificate: '' },
    schema_version: schemaVersion,
    institution: 'Institute of Other Languages',
    software: SOFTWARE
  })
  if (!isProof(registered.hub_proof, proof(key, 'hub', transcript))) {
    throw new Error('the hub does not know the secret')
  }
  return registered
}

const peer = await createLibp2p({
  transports: [quic()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  addresses: { listen: [] },
  connectionGater: { denyDialMultiaddr: () => false }
})
await peer.handle(PROTOCOL, serve)
const connection = await peer.dial(multiaddr(wanted.hub))
report('connected', { address: connection.remoteAddr.toString(), peer_id: peer.peerId.toString() })
const way = { connection, version: wanted.version }
const registered = await join(way, peer.peerId.toString(), wanted)
report('registered', { cluster_id: registered.cluster_id, standing: registered.standing })
await lines.next()
if (wanted.version >= 2) {
  await ask(way, 'LeaveFederation', { reason: 'the test is over' })
}
report('left')
await peer.stop()
