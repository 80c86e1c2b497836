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

/** Optional features of a server. Without the other ones, the registry does not start. */
export interface Capabilities {
  /** The answer to a write that must not replace anything. Told, but not relied on. */
  readonly conditionalWrites: 'enforced' | 'ignored' | 'refused'
  /** Whether abandoned uploads can be found. */
  readonly listUploads: boolean
}

const BODY = Buffer.from('probe')
const FOLDER = 'probe/'

/** True for the key of a probe. */
export function isProbe(key: string): boolean {
  return key.startsWith(FOLDER)
}

/**
 * Tries what the registry needs of a bucket, on an object that is deleted again: write, ranged read, list, multipart upload, delete.
 * Rejects as the SDK does, or with RegistryError `storage-failed` for a server that answers but does something else.
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
    // If the key may not delete, the first upload will say so.
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

/** Whether multipart uploads can be listed. Rejects if the server has none at all. */
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
        // It is gone already if the SDK has repeated the request.
        if (!isUploadGone(error)) throw error
      })
  }
}

function lacks(what: string): RegistryError {
  return new RegistryError('storage-failed', `the server of the bucket does not know ${what}`)
}
