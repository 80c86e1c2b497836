import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t from 'tap'
import type { Catalog } from '../../../src/catalog/catalog.ts'
import { buildLayout, type DescribedTensor } from '../../../src/codec/safetensors/write-header.ts'
import { readManifestHead, writeManifest } from '../../../src/registry/models/manifest-bytes.ts'
import type { Registry } from '../../../src/registry/registry.ts'
import { blobKey } from '../../../src/storage/blob-key.ts'
import type { BlobStore } from '../../../src/storage/blob-store.ts'
import { goldenCase } from '../../support/models/golden-cases.ts'
import { weights } from '../../support/models/weights.ts'
import {
  bytesOf,
  folderParts,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

const SIGNAL = new AbortController().signal

/** The manifest of version 1 that says what one of version 2 does: headers and indexes stood in its text. */
function inVersion1(bytes: Buffer): Buffer {
  const jsonEnd = 4 + bytes.readUInt32LE()
  const stored = JSON.parse(bytes.toString('utf8', 4, jsonEnd))
  const sums = stored.blobs.reduce(
    (sum: number, { size }: { size: number }) => sum + Math.ceil(size / 65_536) * 8,
    0,
  )
  let at = jsonEnd + sums
  const take = (length: number) => {
    at += length
    return bytes.subarray(at - length, at)
  }
  const shards = stored.shards.map((shard: { header: number }) => ({
    ...shard,
    header: take(shard.header).subarray(8).toString(),
  }))
  const lists = (lengths: number[]) => lengths.flatMap(n => JSON.parse(take(n).toString()))
  let { delta } = stored
  if (delta?.format === 1) {
    const { tensors, errors, index, ...rest } = delta
    const listed = { ...index, tensors: lists(tensors) }
    delta = { ...rest, index: listed, errors: errors && lists(errors) }
  }
  const json = Buffer.from(JSON.stringify({ ...stored, version: 1, shards, delta }))
  const length = Buffer.alloc(4)
  length.writeUInt32LE(json.length)
  const payload = Buffer.concat([length, json, bytes.subarray(jsonEnd, jsonEnd + sums)])
  return Buffer.concat([payload, createHash('sha256').update(payload).digest()])
}

/** Puts the manifest of version 1 in the place of a model's own. */
async function putVersion1(catalog: Catalog, blobs: BlobStore, id: string): Promise<void> {
  const { manifest } = (await catalog.model(id))!
  const { size } = await catalog.blob(manifest)
  const bytes = inVersion1(Buffer.from(await blobs.read(manifest, { start: 0, end: size })))
  const key = blobKey('manifests', `${id.slice(1)}0`)
  const body = async function* () {
    yield bytes
  }
  await (await blobs.stage(key, body())).commit()
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  await catalog.replaceManifest(id, { key, sha256, size: bytes.length })
}

/** Whole models in one file and in shards, version 1 deltas with and without error figures, lossless ones. */
async function publishAll(registry: Registry): Promise<string[]> {
  const ids: string[] = []
  for (const name of ['chain-int4-bf16', 'int4-bf16']) {
    const golden = goldenCase(name)
    const base = await publish(registry, folderParts(golden.base), { name: `acme/${name}` })
    ids.push(base.id)
    for (const delta of golden.deltas) {
      ids.push((await publishWdelta(registry, readFileSync(delta))).id)
    }
  }
  const sharded = folderParts(goldenCase('sharded-mixed-int4').base)
  ids.push((await publish(registry, sharded)).id)
  const file = (seed: number, before?: Buffer) => part('w.safetensors', weights(seed, before))
  const base = await publish(registry, [file(1), part('notes.txt', Buffer.from('é'))])
  const tuned = [file(2, weights(1))]
  const lossless = await publish(registry, tuned, { parent: base.id })
  const options = { parent: base.id, strategy: 'sparse' } as const
  const sparse = await publish(registry, [file(2, weights(1))], options)
  return [...ids, base.id, lossless.id, sparse.id]
}

t.test('a manifest of version 1 is read as one of version 2', async t => {
  const folder = t.testdir()
  const first = await openTestRegistry(t, folder)
  const ids = await publishAll(first.registry)
  const tell = async (registry: Registry, id: string) => {
    const { storedSize: _, ...model } = await registry.models.find(id)
    const inspected =
      model.kind === 'delta' ? JSON.stringify(await registry.models.inspect(id)) : 'no delta'
    const content = await registry.models.openReconstruct(id)
    const sha256 = createHash('sha256')
      .update(await bytesOf(content))
      .digest('hex')
    const told = inspected.replace(/"storedSize":\d+/, '')
    return { model, told, sha256, etag: content.etag }
  }
  const before = []
  for (const id of ids) before.push(await tell(first.registry, id))
  for (const id of ids) await putVersion1(first.catalog, first.blobs, id)
  await first.close()
  const { registry } = await openTestRegistry(t, folder)
  for (const [i, id] of ids.entries()) t.strictSame(await tell(registry, id), before[i])
  t.strictSame((await registry.care.scrub({ signal: SIGNAL })).damaged, [])
})

t.test('neither text nor pieces of a manifest grow with what a header says', async t => {
  const tensors: DescribedTensor[] = Array.from({ length: 60_000 }, (_, i) => ({
    name: `model.layers.${i}.weight`,
    dtype: 'F4',
    shape: [0, 2],
  }))
  const layout = buildLayout(tensors, null)
  const model = { id: 'm' } as Parameters<typeof writeManifest>[0]['model']
  const shards = [{ path: 'model.safetensors', blob: 'b', layout }]
  const pieces = await writeManifest({ model, identity: null, shards, delta: null, blobs: [] })
  t.ok(layout.header.length > 4e6)
  t.ok(pieces.every(({ length }) => length <= 2 ** 20))
  t.ok(pieces[1]!.length < 1000)
  const bytes = Buffer.concat(pieces)
  t.strictSame(await readManifestHead('manifests/m', bytes), { model, blobs: [] })
  bytes[bytes.length >> 1]! ^= 1
  await t.rejects(readManifestHead('manifests/m', bytes), { name: 'BlockError' })
})
