import t from 'tap'
import { openS3BlobStore } from '../../src/storage/s3/blob-store.ts'
import { blobStoreContract } from '../storage/blob-store-contract.ts'
import { SERVER_NAMES, startS3Server } from './servers.ts'

t.setTimeout(600_000)

for (const name of SERVER_NAMES) {
  const server = await startS3Server(name)
  t.teardown(() => server[Symbol.asyncDispose]())
  let serial = 0
  t.test(name, { timeout: 600_000 }, async t => {
    blobStoreContract(t, async test => {
      // A folder of the bucket: nothing of it may be seen from outside, and nothing outside from it.
      const options = { ...(await server.bucket(`contract-${serial++}`)), prefix: 'some/where/' }
      return async () => {
        const store = await openS3BlobStore(options, found => test.comment(JSON.stringify(found)))
        test.teardown(() => store.close())
        return store
      }
    })
  })
}
