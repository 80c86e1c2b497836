import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { newBlobKey } from '../../src/storage/blob-key.ts'
import { openFolderBlobStore } from '../../src/storage/folder-blob-store.ts'
import { translateStorageError } from '../../src/storage/storage-errors.ts'
import { blobStoreContract } from './blob-store-contract.ts'

blobStoreContract(t, async test => {
  const store = await openFolderBlobStore(join(test.testdir(), 'store'))
  test.teardown(() => store.close())
  return store
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

t.test('errors of the system become codes by a closed set', async t => {
  const code = (system: string) =>
    translateStorageError(Object.assign(new Error(system), { code: system }), 'key').code
  t.equal(code('ENOENT'), 'blob-missing')
  for (const full of ['ENOSPC', 'EDQUOT', 'EFBIG']) t.equal(code(full), 'storage-full')
  for (const other of ['EIO', 'EACCES', 'EMFILE', 'EROFS']) t.equal(code(other), 'storage-failed')
})
