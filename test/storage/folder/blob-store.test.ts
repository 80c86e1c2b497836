import { readdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { newBlobKey } from '../../../src/storage/blob-key.ts'
import { translateReadError, translateStorageError } from '../../../src/storage/disk-errors.ts'
import { openFolderBlobStore } from '../../../src/storage/folder/blob-store.ts'
import { blobStoreContract } from '../blob-store-contract.ts'

blobStoreContract(t, async test => {
  const folder = join(test.testdir(), 'store')
  return async () => {
    const store = await openFolderBlobStore(folder)
    test.teardown(() => store.close())
    return store
  }
})

async function* once(bytes: Uint8Array) {
  yield bytes
}

t.test('a store opened again has its blobs', async t => {
  const folder = t.testdir()
  const first = await openFolderBlobStore(folder)
  const key = newBlobKey()
  await (await first.stage(key, once(new Uint8Array([1, 2, 3])))).commit()
  await first.close()
  const second = await openFolderBlobStore(folder)
  t.strictSame([...(await second.read(key, { start: 0, end: 3 }))], [1, 2, 3])
  t.equal(second.locate(key), join(folder, key))
  await second.close()
})

t.test('a folder that cannot be made is reported, not waited for', async t => {
  const folder = t.testdir({ file: 'not a folder' })
  await t.rejects(openFolderBlobStore(join(folder, 'file')), { code: 'storage-failed' })
})

t.test('files that are no blobs are not listed as such', async t => {
  const folder = t.testdir()
  const store = await openFolderBlobStore(folder)
  t.teardown(() => store.close())
  const key = newBlobKey()
  await (await store.stage(key, once(new Uint8Array(5)))).commit()
  writeFileSync(join(folder, 'blobs', 'stray'), 'x')
  writeFileSync(join(folder, key.slice(0, 9), 'stray'), 'x')
  const keys: string[] = []
  for await (const blob of store.list('blobs/')) keys.push(blob.key)
  t.strictSame(keys, [key])
  t.strictSame(readdirSync(join(folder, 'staged')), [])
})

t.test('a file stays open between reads', async t => {
  const folder = t.testdir()
  const store = await openFolderBlobStore(folder)
  t.teardown(() => store.close())
  const key = newBlobKey()
  await (await store.stage(key, once(new Uint8Array([1, 2, 3])))).commit()
  await store.read(key, { start: 0, end: 1 })
  unlinkSync(join(folder, key))
  t.strictSame([...(await store.read(key, { start: 1, end: 3 }))], [2, 3])
})

t.test('a folder that is gone is not a blob that is missing', async t => {
  const folder = t.testdir()
  const store = await openFolderBlobStore(folder)
  t.teardown(() => store.close())
  const staged = await store.stage(newBlobKey(), once(new Uint8Array(5)))
  rmSync(join(folder, 'staged'), { recursive: true })
  await t.rejects(staged.commit(), { code: 'storage-failed' })
  await staged.abort()
  await t.rejects(store.stage(newBlobKey(), once(new Uint8Array(5))), { code: 'storage-failed' })
  await t.rejects(store.sweepStaged(new Date(), false), { code: 'storage-failed' })
  rmSync(join(folder, 'blobs'), { recursive: true })
  await t.rejects(Array.fromAsync(store.list('blobs/')), { code: 'storage-failed' })
})

t.test('errors of the system become codes by a closed set', async t => {
  const failure = (code: string) => Object.assign(new Error(code), { code })
  for (const full of ['ENOSPC', 'EDQUOT', 'EFBIG']) {
    t.equal(translateStorageError(failure(full), 'key').code, 'storage-full')
  }
  for (const other of ['ENOENT', 'EIO', 'EACCES', 'EMFILE', 'EROFS']) {
    const cause = failure(other)
    t.match(translateStorageError(cause, 'key'), { code: 'storage-failed', cause })
  }
  t.equal(translateReadError(failure('ENOENT'), 'key').code, 'blob-missing')
  t.equal(translateReadError(failure('ENOTDIR'), 'key').code, 'storage-failed')
})
