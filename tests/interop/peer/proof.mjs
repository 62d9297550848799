// Proof of a generated federation secret, see "Joining" in docs/protocol.md.

import { createHash, createHmac, timingSafeEqual } from 'node:crypto'

/** The 32 bytes behind a generated secret. */
export function keyOf (secret) {
  if (!/^syndb1_[A-Za-z0-9_-]{43}$/.test(secret)) {
    throw new Error('this peer knows generated secrets only')
  }
  return Buffer.from(secret.slice('syndb1_'.length), 'base64url')
}

/** Which secret a node means. */
export function keyId (key) {
  return createHash('sha256').update('syndb federation key id 1').update(key).digest('hex').slice(0, 16)
}

/** The proof of one side, 32 bytes. */
export function proof (key, role, { nodeNonce, hubNonce, nodePeerId, hubPeerId, clusterName }) {
  const mac = createHmac('sha256', key)
  for (const part of ['syndb federation proof 1', role, nodeNonce, hubNonce, nodePeerId, hubPeerId, clusterName]) {
    const bytes = Buffer.from(part)
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    mac.update(length).update(bytes)
  }
  return mac.digest()
}

/** Whether a proof that came is the one expected. */
export function isProof (presented, expected) {
  return presented.length === expected.length && timingSafeEqual(presented, expected)
}
