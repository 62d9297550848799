// Frames of the protocol: four bytes of length, big-endian, and that many bytes of msgpack.

import { decode, encode } from '@msgpack/msgpack'

const MAX_FRAME = 1024 * 1024

/** Encode a value as one frame. */
export function frame (value) {
  const body = encode(value)
  const framed = new Uint8Array(4 + body.length)
  new DataView(framed.buffer).setUint32(0, body.length)
  framed.set(body, 4)
  return framed
}

/** The values that arrive on a stream, until its end. */
export async function * values (stream) {
  let held = new Uint8Array(0)
  for await (const part of stream) {
    held = Buffer.concat([held, part.subarray()])
    while (held.length >= 4) {
      const length = new DataView(held.buffer, held.byteOffset).getUint32(0)
      if (length > MAX_FRAME) {
        throw new Error(`a frame of ${length} bytes`)
      }
      if (held.length < 4 + length) {
        break
      }
      yield decode(held.subarray(4, 4 + length))
      held = held.subarray(4 + length)
    }
  }
}
