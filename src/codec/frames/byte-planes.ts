/** Byte planes: byte 0 of every element, then byte 1 of every element, …: zstd finds more in bytes that are alike. */

/** The planes of `bytes`, elements of `width` bytes (1, 2, 4 or 8), XOR those of `other` where it is given. */
export function splitPlanes(
  bytes: Uint8Array,
  width: number,
  other?: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const count = bytes.length / width
  const planes = new Uint8Array(bytes.length)
  for (let plane = 0; plane < width; plane++) {
    const to = plane * count
    if (other) {
      for (let i = 0, at = plane; i < count; i++, at += width) {
        planes[to + i] = bytes[at]! ^ other[at]!
      }
    } else for (let i = 0, at = plane; i < count; i++, at += width) planes[to + i] = bytes[at]!
  }
  return planes
}

/** The reverse of {@link splitPlanes}, into `out`, which may hold the bytes to XOR with. */
export function joinPlanes(
  planes: Uint8Array,
  width: number,
  out: Uint8Array,
  how: 'set' | 'xor',
): void {
  const count = out.length / width
  for (let plane = 0; plane < width; plane++) {
    const from = plane * count
    if (how === 'xor') {
      for (let i = 0, at = plane; i < count; i++, at += width) out[at]! ^= planes[from + i]!
    } else for (let i = 0, at = plane; i < count; i++, at += width) out[at] = planes[from + i]!
  }
}
