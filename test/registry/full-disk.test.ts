import {
  existsSync,
  globSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { translateSqliteError } from '../../src/catalog/sqlite/errors.ts'
import { openRegistry } from '../../src/registry/open-registry.ts'
import { translateStorageError } from '../../src/storage/disk-errors.ts'
import { DiskRoom } from '../../src/storage/disk-room.ts'
import { goldenCase } from '../support/models/golden-cases.ts'
import {
  before,
  bytesOf,
  folderParts,
  openTestRegistry,
  publish,
} from '../support/servers/test-registry.ts'

const MIB = 2 ** 20
const baseParts = () => folderParts(goldenCase('int4-bf16').base)
const failure = (code: string) => Object.assign(new Error(code), { code })

/** How a disk, or a quota, says that nothing more goes in: to the store, and to SQLite. */
const WAYS = {
  'a full disk': { store: 'ENOSPC', catalog: 'SQLITE_FULL' },
  'a quota': { store: 'EDQUOT', catalog: 'SQLITE_IOERR_WRITE' },
  'a file system that allocates late': { store: 'ENOSPC', catalog: 'SQLITE_IOERR_FSYNC' },
} as const

/** A registry on a disk that can be full: then there is only as much room as is in the reserve. */
async function openOnDisk(t: Test, way: keyof typeof WAYS) {
  const parts = await openTestRegistry(t)
  const { folder } = parts
  const disk = { isFull: false, freeBytes: 100 * MIB, reserve: join(folder, '.reserve') }
  const reserved = () => existsSync(disk.reserve)
  const path = join(folder, 'registry.sqlite')
  const room = new DiskRoom(path, async () => (disk.isFull ? 0 : disk.freeBytes))
  const write = (error: Error) => async () => {
    if (disk.isFull && reserved()) throw error
  }
  const toStore = write(translateStorageError(failure(WAYS[way].store), 'blob'))
  const toCatalog = write(translateSqliteError(failure(WAYS[way].catalog), 'the catalog'))
  let catalog = parts.catalog
  const writes = ['deleteModel', 'forgetBlobs', 'deleteToken', 'insertModel', 'setBlobDamage']
  for (const method of writes as (keyof typeof catalog)[]) {
    catalog = before(catalog, method, toCatalog)
  }
  const blobs = before(parts.blobs, 'stage', toStore)
  const open = () =>
    openRegistry({ ...parts, catalog, blobs, room, scratch: folder, sweepGraceMs: 0 })
  await room.fill()
  // Another one would wait for its lease.
  await parts.registry.close()
  return { registry: await open(), open, disk, room, folder, reserved }
}

for (const way of Object.keys(WAYS) as (keyof typeof WAYS)[]) {
  t.test(`${way}: models go, and their bytes, until others fit in`, async t => {
    const { registry, disk, folder, reserved } = await openOnDisk(t, way)
    // Two of one revision: the deletion of the newer one leaves a tombstone.
    const models = [await publish(registry, baseParts()), await publish(registry, baseParts())]
    const { id: token } = await registry.tokens.create({ name: 'ci', scope: 'read' })
    disk.isFull = true
    await t.rejects(publish(registry, baseParts(), { name: 'acme/new' }))
    for (const { id } of models.toReversed()) await registry.models.remove(id)
    t.equal(globSync('store/tombstones/*/*', { cwd: folder }).length, 1)
    await registry.tokens.revoke(token)
    t.ok((await registry.care.sweep({ dryRun: false })).deleted.length > 0)
    t.strictSame(
      globSync('store/{blobs,manifests,staged,tombstones}/**', {
        cwd: folder,
        withFileTypes: true,
      }).filter(entry => entry.isFile()),
      [],
    )
    t.ok(reserved(), 'the reserve is there for the next time')
    disk.isFull = false
    await publish(registry, baseParts())
    await registry.care.ready()
  })

  t.test(`${way}: what was deleted before a crash goes at the start`, async t => {
    const { registry, open, disk, folder } = await openOnDisk(t, way)
    const { id } = await publish(registry, baseParts())
    await registry.models.remove(id)
    disk.isFull = true
    await registry.close()
    const again = await open()
    t.strictSame(globSync('store/blobs/*/*', { cwd: folder }), [])
    t.equal((await again.models.stats()).models, 0)
  })
}

t.test('a registry starts on a full disk, also if the store has lost something', async t => {
  const { registry, open, disk, folder } = await openOnDisk(t, 'a full disk')
  const { id } = await publish(registry, baseParts())
  await registry.close()
  for (const blob of globSync(join(folder, 'store/blobs/*/*'))) rmSync(blob)
  disk.isFull = true
  const again = await open()
  t.ok((await again.models.find(id)).damaged)
  await again.models.remove(id)
})

t.test('on a full disk, a bad block is told for what it is', async t => {
  const { registry, disk, folder } = await openOnDisk(t, 'a full disk')
  const { id } = await publish(registry, baseParts())
  for (const blob of globSync(join(folder, 'store/blobs/*/*'))) truncateSync(blob, 100)
  disk.isFull = true
  await t.rejects(bytesOf(await registry.models.openReconstruct(id)), { code: 'damaged' })
  t.ok((await registry.models.find(id)).damaged)
})

t.test('a registry on a full disk is not ready', async t => {
  const { registry, disk } = await openOnDisk(t, 'a full disk')
  disk.isFull = true
  await t.rejects(registry.care.ready(), { code: 'storage-full' })
})

t.test('the reserve is of real blocks, private, and grows with the catalog', async t => {
  const folder = t.testdir({})
  const catalog = join(folder, 'registry.sqlite')
  const reserve = join(folder, '.reserve')
  const room = new DiskRoom(catalog)
  const held = () => statSync(reserve)
  for (const [catalogBytes, reserveBytes] of [
    [0, 4 * MIB],
    [1, 5 * MIB],
    [3 * MIB, 7 * MIB],
    [10, 7 * MIB],
  ] as const) {
    writeFileSync(catalog, Buffer.alloc(catalogBytes))
    await room.fill()
    t.equal(held().size, reserveBytes)
    t.ok(held().blocks * 512 >= reserveBytes, 'no hole')
    t.equal(held().mode & 0o777, 0o600)
  }
})

t.test('nothing is taken up before the reserve is whole', async t => {
  const folder = t.testdir({})
  const reserve = join(folder, '.reserve')
  const room = new DiskRoom(join(folder, 'registry.sqlite'))
  symlinkSync('/dev/full', reserve)
  await room.fill()
  const use = () => room.use(async () => 'done')
  await t.rejects(use(), { code: 'storage-full' })
  await t.rejects(room.check(), { code: 'storage-full' })
  rmSync(reserve)
  t.equal(await use(), 'done')
  await room.check()
  t.equal(statSync(reserve).size, 4 * MIB)
})

t.test('what frees room is done once more, in the room of the reserve', async t => {
  const folder = t.testdir({})
  const reserve = join(folder, '.reserve')
  const room = new DiskRoom(join(folder, 'registry.sqlite'))
  await room.fill()
  const full = translateStorageError(failure('ENOSPC'), 'x')
  let tries = 0
  const work = async () => {
    tries++
    if (tries === 1) throw full
    t.equal(existsSync(reserve), false, 'its room is there for this')
    return 'done'
  }
  t.equal(await room.lend(work), 'done')
  t.equal(statSync(reserve).size, 4 * MIB, 'and is taken back')
  await t.rejects(
    room.lend(async () => {
      throw full
    }),
    { code: 'storage-full' },
  )
  t.equal(statSync(reserve).size, 4 * MIB)
  const other = translateStorageError(failure('EIO'), 'x')
  tries = 0
  const failing = async () => {
    tries++
    throw other
  }
  await t.rejects(room.lend(failing), { code: 'storage-failed' })
  t.equal(tries, 1, 'what no room mends is not tried again')
})

t.test('deletions at once, in lent room one after the other', async t => {
  const folder = t.testdir({})
  const room = new DiskRoom(join(folder, 'registry.sqlite'))
  await room.fill()
  let under = 0
  const results = await Promise.all(
    Array.from({ length: 8 }, (_, i) => {
      let isFirst = true
      return room.lend(async () => {
        if (isFirst) {
          isFirst = false
          throw translateStorageError(failure('ENOSPC'), 'x')
        }
        t.equal(++under, 1)
        await new Promise(setImmediate)
        t.notOk(existsSync(join(folder, '.reserve')))
        under--
        return i
      })
    }),
  )
  t.strictSame(results, [0, 1, 2, 3, 4, 5, 6, 7])
  t.equal(statSync(join(folder, '.reserve')).size, 4 * MIB)
})

t.test('it tells that nothing can be written, and recovers by itself', async t => {
  const folder = t.testdir({})
  let free = 100 * MIB
  const room = new DiskRoom(join(folder, 'registry.sqlite'), async () => free)
  await room.check()
  free = MIB - 1
  await t.rejects(room.check(), { code: 'storage-full' })
  free = MIB
  await room.check()
  const full = async () => {
    throw translateStorageError(failure('EDQUOT'), 'x')
  }
  await t.rejects(room.use(full), { code: 'storage-full' })
  // It is tried: here, there is room.
  await room.check()
  t.strictSame(readdirSync(folder), ['.reserve'])
})
