import { CodecError } from '../../base/errors.ts'
import { LIMITS } from '../../base/limits.ts'
import { utf8 } from '../../base/utf8.ts'
import { refuse } from '../refuse.ts'

/** Writes little-endian numbers, texts and columns one after the other, into memory that grows by doubling. */
export class ByteWriter {
  #bytes = new Uint8Array(4096)
  #size = 0

  bytes(bytes: Uint8Array): void {
    this.#room(bytes.length).set(bytes)
  }

  u8(value: number): void {
    this.#room(1)[0] = value
  }

  u16(value: number): void {
    this.#view(2).setUint16(0, value, true)
  }

  u32(value: number): void {
    this.#view(4).setUint32(0, value, true)
  }

  u64(value: number): void {
    this.#view(8).setBigUint64(0, BigInt(value), true)
  }

  text8(text: string): void {
    const bytes = utf8(text)
    this.u8(bytes.length)
    this.bytes(bytes)
  }

  text16(text: string): void {
    const bytes = utf8(text)
    this.u16(bytes.length)
    this.bytes(bytes)
  }

  column(values: Uint32Array): void {
    const view = this.#view(values.length * 4)
    for (let i = 0; i < values.length; i++) view.setUint32(i * 4, values[i]!, true)
  }

  wideColumn(values: BigUint64Array): void {
    const view = this.#view(values.length * 8)
    for (let i = 0; i < values.length; i++) view.setBigUint64(i * 8, values[i]!, true)
  }

  end(): Uint8Array {
    return this.#bytes.slice(0, this.#size)
  }

  #view(bytes: number): DataView {
    const room = this.#room(bytes)
    return new DataView(room.buffer, room.byteOffset, bytes)
  }

  #room(bytes: number): Uint8Array {
    if (this.#size + bytes > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#size + bytes, this.#bytes.length * 2))
      grown.set(this.#bytes.subarray(0, this.#size))
      this.#bytes = grown
    }
    this.#size += bytes
    return this.#bytes.subarray(this.#size - bytes, this.#size)
  }
}

/** Reads what a {@link ByteWriter} writes. Every method refuses to read past the end. @throws CodecError `index` */
export class ByteReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  /** Another reader, which begins where this one is. */
  fork(): ByteReader {
    const other = new ByteReader(this.#bytes)
    other.#at = this.#at
    return other
  }

  bytes(count: number): Uint8Array {
    const at = this.#take(count)
    return this.#bytes.subarray(at, at + count)
  }

  /** As {@link bytes}, but copied: the index as a whole is not kept. */
  copy(count: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.bytes(count))
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1))
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true)
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  u64(): number {
    const at = this.#take(8)
    const value = this.#view.getUint32(at, true) + this.#view.getUint32(at + 4, true) * 2 ** 32
    if (value > LIMITS.dimension) {
      refuse('index', `expected a dimension of at most ${LIMITS.dimension}, got ${value}`)
    }
    return value
  }

  text(length: number): string {
    const bytes = this.bytes(length)
    try {
      return decoder.decode(bytes)
    } catch (cause) {
      throw new CodecError('delta', 'index', 'expected UTF-8 in the index', null, { cause })
    }
  }

  /** `count` u32. Nothing is allocated before it is sure that they are there. */
  column(count: number): Uint32Array {
    return new Uint32Array(this.copy(count * 4).buffer)
  }

  /** `count` u64, as {@link column}. */
  wideColumn(count: number): BigUint64Array {
    return new BigUint64Array(this.copy(count * 8).buffer)
  }

  end(): void {
    const left = this.#bytes.length - this.#at
    if (left > 0) refuse('index', `${left} bytes of the index are left over`)
  }

  #take(count: number): number {
    const at = this.#at
    if (count > this.#bytes.length - at) {
      refuse('index', `expected ${count} bytes at ${at} of the index, it has ${this.#bytes.length}`)
    }
    this.#at += count
    return at
  }
}

export const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
