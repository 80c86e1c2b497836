import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import type { Bucket } from './s3-bucket.ts'

const MIB = 1024 * 1024
/** Bytes of a part. All of one size, but for the last, which some servers ask for … */
const PART_BYTES = 16 * MIB
/** … up to this part: 140 GiB. Larger blobs need larger parts, for there are 10,000 at most. */
const EQUAL_PARTS = 9000
const LARGE_PART_BYTES = 512 * MIB
/** Parts under way while the next is filled. */
const IN_FLIGHT = 2

interface Part {
  readonly PartNumber: number
  readonly ETag: string
}

/**
 * A blob on its way into a bucket, as a multipart upload: nobody sees it before it is completed. Parts are held in memory until the server has
 * them: only so can they be sent again.
 */
export class MultipartUpload {
  readonly #bucket: Bucket
  readonly #key: string
  readonly #id: string
  readonly #under = new Set<Promise<void>>()
  readonly #parts: Part[] = []
  #failure: { readonly error: unknown } | null = null
  #open: Buffer | null = null
  #filled = 0
  #number = 1
  #size = 0

  private constructor(bucket: Bucket, key: string, id: string) {
    this.#bucket = bucket
    this.#key = key
    this.#id = id
  }

  static async begin(bucket: Bucket, key: string, signal?: AbortSignal): Promise<MultipartUpload> {
    const command = new CreateMultipartUploadCommand(bucket.at(key))
    const { UploadId: id } = await bucket.ask({ signal }, (client, limits) =>
      client.send(command, limits),
    )
    return new MultipartUpload(bucket, key, id!)
  }

  /** The server's name for it. */
  get id(): string {
    return this.#id
  }

  get size(): number {
    return this.#size
  }

  /** Takes bytes, which may be used again afterwards. Rejects when a part has failed for good. */
  async write(bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      this.#open ??= Buffer.allocUnsafeSlow(partBytes(this.#number))
      const piece = bytes.subarray(at, at + this.#open.length - this.#filled)
      this.#open.set(piece, this.#filled)
      this.#filled += piece.length
      this.#size += piece.length
      at += piece.length
      if (this.#filled === this.#open.length) await this.#send(signal)
    }
  }

  /** Sends what is left; then all parts are stored. An upload has at least one part, also if that has no bytes. */
  async end(signal?: AbortSignal): Promise<void> {
    if (this.#filled > 0 || this.#number === 1) await this.#send(signal)
    await Promise.all(this.#under)
    this.#check()
  }

  /** Makes one object of the parts. */
  async complete(): Promise<void> {
    const Parts = this.#parts.sort((a, b) => a.PartNumber - b.PartNumber)
    const target = { ...this.#bucket.at(this.#key), UploadId: this.#id }
    const command = new CompleteMultipartUploadCommand({ ...target, MultipartUpload: { Parts } })
    await this.#bucket.ask({ isLong: true }, (client, limits) => client.send(command, limits))
  }

  /** Drops the parts that are stored, once none is under way any more. */
  async abort(): Promise<void> {
    await Promise.all(this.#under)
    const target = { ...this.#bucket.at(this.#key), UploadId: this.#id }
    const command = new AbortMultipartUploadCommand(target)
    await this.#bucket.ask({}, (client, limits) => client.send(command, limits))
  }

  async #send(signal: AbortSignal | undefined): Promise<void> {
    const body = this.#open?.subarray(0, this.#filled) ?? Buffer.alloc(0)
    const sent = this.#sendPart(this.#number++, body, signal)
    this.#open = null
    this.#filled = 0
    this.#under.add(sent)
    void sent.then(() => this.#under.delete(sent))
    if (this.#under.size >= IN_FLIGHT) await Promise.race(this.#under)
    this.#check()
  }

  /** Never rejects: what fails is told by the next call that can. */
  async #sendPart(number: number, body: Buffer, signal: AbortSignal | undefined): Promise<void> {
    const target = { ...this.#bucket.at(this.#key), UploadId: this.#id, PartNumber: number }
    const command = new UploadPartCommand({ ...target, Body: body, ContentLength: body.length })
    try {
      const { ETag } = await this.#bucket.ask({ signal, isLong: true }, (client, limits) =>
        client.send(command, limits),
      )
      this.#parts.push({ PartNumber: number, ETag: ETag! })
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
