import { newBlobKey } from '../../../src/storage/blob-key.ts'
import { blob, type CatalogTest, ids, model } from './samples.ts'

/** How every catalog keeps account of damage. */
export function damageContract(test: CatalogTest): void {
  test('a bad blob is damage of all models that need it', async (t, catalog) => {
    const at = '2026-11-24T10:00:00.000Z'
    const later = '2026-11-24T11:00:00.000Z'
    const side = blob()
    const withSide = (made: ReturnType<typeof model>, path: string) => {
      const file = { path, size: side.size, sha256: side.sha256, blob: side.key }
      return { record: { ...made.record, files: [...made.record.files, file] }, own: made.blobs }
    }
    const base = withSide(model(), 'tokenizer.json')
    const weights = base.own[1]!
    const shard = { path: 'm.safetensors', size: 9, sha256: weights.sha256, blob: weights.key }
    const baseRecord = { ...base.record, files: [...base.record.files.slice(1), shard] }
    await catalog.insertModel(baseRecord, [...base.own, side])
    const tuned = model({ kind: 'delta', parent: base.record.id })
    await catalog.insertModel(tuned.record, tuned.blobs)
    const last = withSide(model({ kind: 'delta', parent: tuned.record.id }), 'vocab.json')
    await catalog.insertModel(last.record, [...last.own, side])
    const whole = model({ parent: base.record.id })
    await catalog.insertModel(whole.record, whole.blobs)
    const all = [base.record.id, tuned.record.id, last.record.id, whole.record.id]
    const shown = async () => {
      const found = await Promise.all(all.map(async id => (await catalog.model(id))!.damaged))
      const { models } = await catalog.list({ limit: 10 })
      t.strictSame(
        models.map(({ damaged }) => damaged),
        found.toReversed(),
        'a list says the same',
      )
      return found.map(damaged => damaged && `${damaged.file} ${damaged.offset} ${damaged.at}`)
    }
    t.strictSame(await shown(), [null, null, null, null])
    const bad = async (key: string, offset: number, when = at) => {
      await catalog.setBlobDamage(key, { offset, at: when })
      return shown()
    }
    const tokenizer = `tokenizer.json 3 ${later}`
    t.strictSame(
      await bad(side.key, 3, later),
      [tokenizer, null, `vocab.json 3 ${later}`, null],
      'a side file matters to who has it, by the path that it has there',
    )
    t.strictSame(
      await bad(weights.key, 2 ** 40),
      [...Array(3).fill(`m.safetensors ${2 ** 40} ${at}`), null],
      'weights matter to all that is built on them; what was seen first is shown',
    )
    await catalog.setBlobDamage(weights.key, null)
    const delta = `acme--model.wdelta 0 ${at}`
    t.strictSame(await bad(tuned.record.delta!, 0), [tokenizer, delta, delta, null])
    await catalog.setBlobDamage(tuned.record.delta!, null)
    const manifest = `manifest 0 ${at}`
    t.strictSame(await bad(base.record.manifest, 0), [manifest, manifest, manifest, null])
    // More bad blobs than are asked for one by one.
    for (let i = 0; i < 50; i++) {
      const other = model({ name: 'acme/other' })
      await catalog.insertModel(other.record, other.blobs)
      await catalog.setBlobDamage(other.blobs[0]!.key, { offset: 0, at })
      await catalog.deleteModel(other.record.id)
    }
    t.strictSame(await shown(), [manifest, manifest, manifest, null])
    await catalog.setBlobDamage(base.record.manifest, null)
    await catalog.setBlobDamage(side.key, null)
    t.strictSame(await shown(), [null, null, null, null])
  })

  test('a blob with a bad block is not what equal content is taken to be', async (t, catalog) => {
    const { record, blobs } = model()
    await catalog.insertModel(record, blobs)
    const [, bad] = blobs
    const at = '2026-11-24T10:00:00.000Z'
    t.strictSame(await catalog.copyOf(bad!.key), bad)
    await catalog.setBlobDamage(bad!.key, { offset: 2 ** 40, at })
    await catalog.setBlobDamage(bad!.key, { offset: 0, at: 'later' })
    await catalog.setBlobDamage(newBlobKey(), { offset: 0, at })
    t.strictSame(await catalog.damagedBlobs(), [{ ...bad!, offset: 2 ** 40, at }])
    t.equal(await catalog.findBlob(bad!.sha256, bad!.size), null)
    t.equal(await catalog.copyOf(bad!.key), null)
    t.strictSame(await catalog.blob(bad!.key), bad, 'it stays where it is')
    const again = model()
    const copy = { ...bad!, key: newBlobKey() }
    const files = record.files.map(file => ({ ...file, blob: copy.key }))
    await catalog.insertModel({ ...again.record, files }, [...again.blobs, copy])
    t.strictSame(await catalog.copyOf(bad!.key), copy)
    await catalog.setBlobDamage(bad!.key, null)
    t.strictSame(await catalog.damagedBlobs(), [])
    t.strictSame(ids(await catalog.modelsOf(bad!.key, 2)), [record.id])
    t.strictSame(await catalog.modelsOf(newBlobKey(), 2), [])
    await catalog.setBlobDamage(bad!.key, { offset: 1, at })
    await catalog.deleteModel(record.id)
    await catalog.forgetBlobs([bad!.key])
    t.strictSame(await catalog.damagedBlobs(), [], 'what is forgotten has no damage')
  })
}
