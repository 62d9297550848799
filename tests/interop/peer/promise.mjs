// Node 20 lacks Promise.withResolvers, which libp2p 3 uses.

Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((...settle) => { [resolve, reject] = settle })
  return { promise, resolve, reject }
}
