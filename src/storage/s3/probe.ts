import { randomBytes } from 'node:crypto'
import {
  AbortMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
} from '@aws-sdk/client-s3'
import { RegistryError } from '../../errors.ts'
import type { Bucket } from './bucket.ts'
import { isNotImplemented, isUploadGone, statusOf } from './errors.ts'

/** What a server was found to do. What the registry cannot do without is not among it: without that, it does not start. */
export interface Capabilities {
  /** What becomes of a write that must not replace anything: nothing rests on it. */
  readonly conditionalWrites: 'enforced' | 'ignored' | 'refused'
  /** Whether uploads that nobody goes on with can be found. */
  readonly listUploads: boolean
}

const BODY = Buffer.from('probe')
const FOLDER = 'probe/'

/** True for a key that a server is tried with. */
export function isProbe(key: string): boolean {
  return key.startsWith(FOLDER)
}

/**
 * Tries what the registry asks of a bucket, on an object of its own that goes again: write, ranged read, list, multipart upload, delete.
 * Rejects with what the SDK does, or RegistryError `storage-failed` for a server that answers and does not do it.
 */
export async function probeBucket(bucket: Bucket): Promise<Capabilities> {
  const target = bucket.at(FOLDER + randomBytes(16).toString('hex'))
  const { Bucket, Key } = target
  await bucket.ask({}, (client, limits) => client.send(new HeadBucketCommand({ Bucket }), limits))
  try {
    const put = new PutObjectCommand({ ...target, Body: BODY })
    await bucket.ask({}, (client, limits) => client.send(put, limits))
    await checkRange(bucket, target)
    const list = new ListObjectsV2Command({ Bucket, Prefix: Key })
    const { Contents = [] } = await bucket.ask({}, (client, limits) => client.send(list, limits))
    if (Contents.length > 1) throw lacks('lists with a prefix')
    return {
      conditionalWrites: await tryConditional(bucket, target),
      listUploads: await tryUploads(bucket, target),
    }
  } finally {
    // A reader's token may not delete: then the first upload says so.
    const command = new DeleteObjectCommand(target)
    await bucket.ask({}, (client, limits) => client.send(command, limits)).catch(() => {})
  }
}

type Target = ReturnType<Bucket['at']>

async function checkRange(bucket: Bucket, target: Target): Promise<void> {
  const command = new GetObjectCommand({ ...target, Range: 'bytes=1-3' })
  const { Body } = await bucket.ask({}, (client, limits) => client.send(command, limits))
  const read = Buffer.from((await Body?.transformToByteArray()) ?? [])
  if (!read.equals(BODY.subarray(1, 4))) throw lacks('ranges')
}

async function tryConditional(
  bucket: Bucket,
  target: Target,
): Promise<Capabilities['conditionalWrites']> {
  const command = new PutObjectCommand({ ...target, Body: BODY, IfNoneMatch: '*' })
  try {
    await bucket.ask({}, (client, limits) => client.send(command, limits))
    return 'ignored'
  } catch (error) {
    return statusOf(error) === 412 ? 'enforced' : 'refused'
  }
}

/** Whether multipart uploads can be listed. Rejects where there are none. */
async function tryUploads(bucket: Bucket, target: Target): Promise<boolean> {
  const { Bucket } = target
  const create = new CreateMultipartUploadCommand(target)
  const { UploadId } = await bucket.ask({}, (client, limits) => client.send(create, limits))
  try {
    const list = new ListMultipartUploadsCommand({ Bucket })
    const { Uploads = [] } = await bucket.ask({}, (client, limits) => client.send(list, limits))
    return Uploads.length > 0
  } catch (error) {
    if (isNotImplemented(error)) return false
    throw error
  } finally {
    const abort = new AbortMultipartUploadCommand({ ...target, UploadId })
    await bucket
      .ask({}, (client, limits) => client.send(abort, limits))
      .catch(error => {
        // Asked twice, if the first answer was lost.
        if (!isUploadGone(error)) throw error
      })
  }
}

function lacks(what: string): RegistryError {
  return new RegistryError('storage-failed', `the server of the bucket does not know ${what}`)
}
