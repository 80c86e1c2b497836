import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  PutObjectCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import type { Bucket } from './bucket.ts'
import { lacking } from './errors.ts'

const MIB = 1024 * 1024
/** Largest blob that is put with one request in place of three. It stays in memory until it is committed. */
const SMALL_BYTES = MIB
/** Bytes of a part. Some servers require parts of one size, but for the last … */
const PART_BYTES = 16 * MIB
/** … so all have it up to this part, at 140 GiB. Larger blobs need larger parts, as there are at most 10,000. */
const EQUAL_PARTS = 9000
const LARGE_PART_BYTES = 512 * MIB
const NOTHING = Buffer.alloc(0)
/** Most parts under way while the next is filled. */
const IN_FLIGHT = 2

interface Part {
  readonly PartNumber: number
  readonly ETag: string
}

/**
 * A blob on its way into a bucket, invisible until it is completed: a small one waits in memory for a single put, a larger one is a multipart
 * upload. Parts stay in memory until the server has them, so that they can be sent again.
 */
export class ObjectUpload {
  readonly #bucket: Bucket
  readonly #key: string
  readonly #under = new Set<Promise<void>>()
  readonly #parts: Part[] = []
  #failure: { readonly error: unknown } | null = null
  /** The server's id of the multipart upload; null while the blob is small. */
  #id: string | null = null
  #open = NOTHING
  #filled = 0
  #number = 1
  #size = 0

  constructor(bucket: Bucket, key: string) {
    this.#bucket = bucket
    this.#key = key
  }

  get size(): number {
    return this.#size
  }

  /** Takes bytes; the caller may reuse their buffer afterwards. Rejects if a part has failed for good. */
  async write(bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      if (this.#filled === this.#open.length) await this.#makeRoom(signal)
      const piece = bytes.subarray(at, at + this.#open.length - this.#filled)
      this.#open.set(piece, this.#filled)
      this.#filled += piece.length
      this.#size += piece.length
      at += piece.length
    }
  }

  /** Sends the rest of a multipart upload, and waits until all its parts are stored. */
  async end(signal?: AbortSignal): Promise<void> {
    if (this.#id === null) return
    await this.#send(this.#id, signal)
    await Promise.all(this.#under)
    this.#check()
  }

  /** Makes the object. Once this resolves, it is visible. */
  async complete(): Promise<void> {
    const target = this.#bucket.at(this.#key)
    if (this.#id === null) {
      const Body = this.#open.subarray(0, this.#filled)
      const put = new PutObjectCommand({ ...target, Body, ContentLength: Body.length })
      await this.#bucket.ask({}, (client, limits) => client.send(put, limits))
      return
    }
    const Parts = this.#parts.sort((a, b) => a.PartNumber - b.PartNumber)
    const whole = { ...target, UploadId: this.#id, MultipartUpload: { Parts } }
    const command = new CompleteMultipartUploadCommand(whole)
    await this.#bucket.ask({ long: 'work' }, (client, limits) => client.send(command, limits))
  }

  /** Waits for the parts under way, then drops all of them. */
  async abort(): Promise<void> {
    await Promise.all(this.#under)
    if (this.#id === null) return
    const target = { ...this.#bucket.at(this.#key), UploadId: this.#id }
    const command = new AbortMultipartUploadCommand(target)
    await this.#bucket.ask({}, (client, limits) => client.send(command, limits))
  }

  /** Makes room for more bytes: of a small blob, of a blob that turns out larger and becomes a multipart upload, or of the next part. */
  async #makeRoom(signal: AbortSignal | undefined): Promise<void> {
    if (this.#id !== null) {
      await this.#send(this.#id, signal)
      this.#open = Buffer.allocUnsafeSlow(partBytes(this.#number))
      return
    }
    if (this.#open.length === 0) {
      this.#open = Buffer.allocUnsafeSlow(SMALL_BYTES)
      return
    }
    const command = new CreateMultipartUploadCommand(this.#bucket.at(this.#key))
    const { UploadId } = await this.#bucket.ask({ signal }, (client, limits) =>
      client.send(command, limits),
    )
    // Without it, a part would be stored as an object of its own.
    if (!UploadId) throw lacking(this.#key, 'UploadId')
    this.#id = UploadId
    const first = Buffer.allocUnsafeSlow(partBytes(this.#number))
    this.#open.copy(first)
    this.#open = first
  }

  /** Sends the open part. */
  async #send(id: string, signal: AbortSignal | undefined): Promise<void> {
    const sent = this.#sendPart(id, this.#number++, this.#open.subarray(0, this.#filled), signal)
    this.#open = NOTHING
    this.#filled = 0
    this.#under.add(sent)
    void sent.then(() => this.#under.delete(sent))
    if (this.#under.size >= IN_FLIGHT) await Promise.race(this.#under)
    this.#check()
  }

  /** Never rejects: the next call that can rejects with the failure. */
  async #sendPart(
    id: string,
    number: number,
    body: Buffer,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const target = { ...this.#bucket.at(this.#key), UploadId: id, PartNumber: number }
    const command = new UploadPartCommand({ ...target, Body: body, ContentLength: body.length })
    try {
      const { ETag } = await this.#bucket.ask({ signal, long: 'bytes' }, (client, limits) =>
        client.send(command, limits),
      )
      if (!ETag) throw lacking(this.#key, 'ETag')
      this.#parts.push({ PartNumber: number, ETag })
    } catch (error) {
      this.#failure ??= { error }
    }
  }

  #check(): void {
    if (this.#failure) throw this.#failure.error
  }
}

function partBytes(number: number): number {
  return number <= EQUAL_PARTS ? PART_BYTES : LARGE_PART_BYTES
}
