import t, { type Test } from 'tap'
import { openS3BlobStore } from '../../src/storage/s3-blob-store.ts'
import type { S3Options } from '../../src/storage/s3-client.ts'
import { blobStoreContract } from './blob-store-contract.ts'
import { FakeS3 } from './fake-s3.ts'

/** A server, and stores in a folder of its bucket, gone with the test. */
async function start(t: Test, pageSize?: number) {
  const fake = await FakeS3.start(pageSize)
  t.teardown(() => fake[Symbol.asyncDispose]())
  const open = async (options: Partial<S3Options> = {}) => {
    const store = await openS3BlobStore(fake.options({ prefix: 'some/where/', ...options }))
    t.teardown(() => store.close())
    return store
  }
  return { fake, open }
}

blobStoreContract(t, async t => {
  // Short pages, so that there are several of everything that is listed.
  const { open } = await start(t, 2)
  return open
})
