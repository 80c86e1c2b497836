import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  type ListMultipartUploadsCommandOutput,
  ListObjectsV2Command,
  ListPartsCommand,
} from '@aws-sdk/client-s3'
import type { ByteRange } from '../../codec/base/ranges.ts'
import { RegistryError } from '../../errors.ts'
import { checkBlobKey, isBlobKey } from '../blob-key.ts'
import type { BlobInfo, BlobStore, Staged } from '../blob-store.ts'
import { Bucket } from './bucket.ts'
import type { S3Options } from './client.ts'
import {
  isMissing,
  isNotFound,
  isNotImplemented,
  isUploadGone,
  lacking,
  translateS3Error,
} from './errors.ts'
import { type Capabilities, isProbe, probeBucket } from './probe.ts'
import { readRange } from './read.ts'
import { ObjectUpload } from './upload.ts'

/** Most deletes under way. One request each: deleting a list needs checksums that not all servers know. */
const MAX_DELETES = 16

/**
 * Blobs as objects of a bucket. Staging is a multipart upload and commit its completion, so that what is not committed is no object. Conditional
 * writes are not needed: keys are never used twice. `tell` gets the optional features that the server has.
 * Rejects with RegistryError `storage-failed` for a bucket that is missing or does not do what is needed, `storage-unavailable` if it does not
 * answer.
 */
export async function openS3BlobStore(
  options: S3Options,
  tell: (found: Capabilities) => void = () => {},
): Promise<BlobStore> {
  const bucket = new Bucket(options)
  try {
    tell(await probeBucket(bucket))
    return new S3BlobStore(bucket)
  } catch (error) {
    bucket.close()
    throw translateS3Error(error, `bucket ${options.bucket}`)
  }
}

class S3BlobStore implements BlobStore {
  readonly #bucket: Bucket
  /** Keys of this process's uploads that are neither completed nor dropped yet. */
  readonly #underWay = new Set<string>()

  constructor(bucket: Bucket) {
    this.#bucket = bucket
  }

  async stage(key: string, body: AsyncIterable<Uint8Array>, signal?: AbortSignal): Promise<Staged> {
    const chunks = body[Symbol.asyncIterator]()
    const upload = new ObjectUpload(this.#bucket, key)
    try {
      checkBlobKey(key)
      this.#underWay.add(key)
      for (;;) {
        signal?.throwIfAborted()
        const { value: chunk, done } = await chunks.next()
        if (done) break
        await this.#stored(key, () => upload.write(chunk, signal))
      }
      await this.#stored(key, () => upload.end(signal))
      return {
        size: upload.size,
        commit: () => this.#stored(key, () => this.#commit(key, upload)),
        abort: () => this.#drop(key, upload),
      }
    } catch (error) {
      await this.#drop(key, upload)
      // The body must be closed whichever side failed. That closing fails too adds nothing.
      await chunks.return?.().catch(() => {})
      signal?.throwIfAborted()
      throw error
    }
  }

  async read(
    key: string,
    range: ByteRange,
    signal?: AbortSignal,
    into?: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    checkBlobKey(key)
    return readRange(this.#bucket, key, range, signal, into)
  }

  locate(): null {
    return null
  }

  async size(key: string): Promise<number> {
    checkBlobKey(key)
    try {
      return await this.#head(key)
    } catch (error) {
      throw isNotFound(error) ? await this.#whyNotFound(key) : translateS3Error(error, key)
    }
  }

  async *list(
    prefix: string,
    isWanted: (key: string) => boolean = () => true,
  ): AsyncGenerator<BlobInfo> {
    const Bucket = this.#bucket.name
    const Prefix = this.#bucket.prefixed(prefix)
    let ContinuationToken: string | undefined
    do {
      const page = { Bucket, Prefix, ...(ContinuationToken !== undefined && { ContinuationToken }) }
      const {
        Contents = [],
        IsTruncated,
        NextContinuationToken: next,
      } = await this.#stored(prefix, () =>
        this.#bucket.ask({}, (client, limits) =>
          client.send(new ListObjectsV2Command(page), limits),
        ),
      )
      // A rebuild loses what a list leaves out, so a list must say that it is whole or how it goes on.
      if (IsTruncated === undefined) throw lacking(`list of ${prefix}`, 'IsTruncated')
      if (IsTruncated && (!next || next === ContinuationToken)) {
        throw lacking(`list of ${prefix}`, 'NextContinuationToken that leads on')
      }
      for (const { Key = '', Size: size = 0, LastModified } of Contents) {
        const key = this.#bucket.keyOf(Key)
        // An object without a time counts as new, so that the sweep spares it.
        if (key === null || !isBlobKey(key) || !isWanted(key)) continue
        yield { key, size, modified: LastModified ?? new Date() }
      }
      ContinuationToken = IsTruncated ? next : undefined
    } while (ContinuationToken !== undefined)
  }

  async delete(keys: readonly string[]): Promise<void> {
    for (const key of keys) checkBlobKey(key)
    const waiting = [...keys]
    const work = async () => {
      for (let key = waiting.pop(); key !== undefined; key = waiting.pop()) await this.#delete(key)
    }
    await Promise.all(Array.from({ length: Math.min(MAX_DELETES, keys.length) }, work))
  }

  async sweepStaged(before: Date, dryRun: boolean): Promise<BlobInfo[]> {
    const swept: BlobInfo[] = []
    for await (const { Key, UploadId, Initiated } of this.#listUploads()) {
      const key = this.#bucket.keyOf(Key)
      if (key === null || !(isBlobKey(key) || isProbe(key)) || this.#underWay.has(key)) continue
      if (Initiated >= before) continue
      const target = { Bucket: this.#bucket.name, Key, UploadId }
      try {
        const size = await this.#partsSize(target)
        if (!dryRun) await this.#abortUpload(target)
        swept.push({ key, size, modified: Initiated })
      } catch (error) {
        // It may have been completed or aborted since it was listed.
        if (!isUploadGone(error)) throw translateS3Error(error, key)
      }
    }
    return swept
  }

  trim(): void {}

  async close(): Promise<void> {
    this.#bucket.close()
  }

  /** Completes an upload and checks that the object is there: the answer may be lost, or be a 200 that means nothing. */
  async #commit(key: string, upload: ObjectUpload): Promise<void> {
    const { size } = upload
    try {
      const answered = await upload.complete().then(
        () => null,
        error => ({ error }),
      )
      const found = await this.#head(key).catch(error => {
        throw answered?.error ?? error
      })
      // An object of the right size is ours, whatever the answer was: nothing else writes to this key.
      if (found !== size) {
        const message = `blob ${key}: expected ${size} bytes in the bucket, found ${found}`
        throw answered?.error ?? new RegistryError('storage-failed', message)
      }
      this.#underWay.delete(key)
    } catch (error) {
      await this.#drop(key, upload)
      await this.#delete(key).catch(() => {})
      throw error
    }
  }

  /** Drops an upload, or leaves it to the sweep. */
  async #drop(key: string, upload: ObjectUpload): Promise<void> {
    await upload.abort().catch(() => {})
    this.#underWay.delete(key)
  }

  async #head(key: string): Promise<number> {
    const command = new HeadObjectCommand(this.#bucket.at(key))
    const { ContentLength } = await this.#bucket.ask({}, (client, limits) =>
      client.send(command, limits),
    )
    if (ContentLength === undefined) throw lacking(key, 'Content-Length')
    return ContentLength
  }

  /** Why a HEAD found no blob, from a GET: only that has a body, which tells a missing blob from a missing bucket or a proxy's 404. */
  async #whyNotFound(key: string): Promise<RegistryError> {
    try {
      await readRange(this.#bucket, key, { start: 0, end: 1 })
    } catch (error) {
      if ((error as RegistryError).code !== 'blob-short') return error as RegistryError
    }
    return new RegistryError('storage-unavailable', `${key} is there for a GET, not for a HEAD`)
  }

  async #delete(key: string): Promise<void> {
    const command = new DeleteObjectCommand(this.#bucket.at(key))
    try {
      await this.#bucket.ask({}, (client, limits) => client.send(command, limits))
    } catch (error) {
      if (!isMissing(error)) throw translateS3Error(error, key)
    }
  }

  /** Every upload under way in the bucket, without a prefix: some servers find none for a prefix that is a folder. */
  async *#listUploads(): AsyncGenerator<{ Key: string; UploadId: string; Initiated: Date }> {
    const Bucket = this.#bucket.name
    let marker: { KeyMarker?: string | undefined; UploadIdMarker?: string | undefined } | null = {}
    while (marker) {
      const page: { Bucket: string } = { Bucket, ...marker }
      const listed: ListMultipartUploadsCommandOutput | null = await this.#stored('uploads', () =>
        this.#bucket.ask({}, (client, limits) =>
          client.send(new ListMultipartUploadsCommand(page), limits),
        ),
      ).catch(error => {
        if (isNotImplemented(error.cause)) return null
        throw error
      })
      if (!listed) return
      for (const { Key = '', UploadId = '', Initiated = new Date() } of listed.Uploads ?? []) {
        yield { Key, UploadId, Initiated }
      }
      const { IsTruncated, NextKeyMarker: KeyMarker, NextUploadIdMarker: UploadIdMarker } = listed
      const isStep: boolean =
        KeyMarker !== marker.KeyMarker || UploadIdMarker !== marker.UploadIdMarker
      marker = IsTruncated && isStep ? { KeyMarker, UploadIdMarker } : null
    }
  }

  async #partsSize(target: { Bucket: string; Key: string; UploadId: string }): Promise<number> {
    let size = 0
    let marker: string | undefined
    do {
      const page = { ...target, ...(marker !== undefined && { PartNumberMarker: marker }) }
      const {
        Parts = [],
        IsTruncated,
        NextPartNumberMarker,
      } = await this.#bucket.ask({}, (client, limits) =>
        client.send(new ListPartsCommand(page), limits),
      )
      for (const { Size = 0 } of Parts) size += Size
      marker = IsTruncated && NextPartNumberMarker !== marker ? NextPartNumberMarker : undefined
    } while (marker !== undefined)
    return size
  }

  async #abortUpload(target: { Bucket: string; Key: string; UploadId: string }): Promise<void> {
    const command = new AbortMultipartUploadCommand(target)
    await this.#bucket.ask({}, (client, limits) => client.send(command, limits))
  }

  /** Runs one step with the bucket and translates its errors. Errors of an upload's body do not come through here. */
  async #stored<T>(what: string, step: () => Promise<T>): Promise<T> {
    try {
      return await step()
    } catch (error) {
      throw translateS3Error(error, what)
    }
  }
}
