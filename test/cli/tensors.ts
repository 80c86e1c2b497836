import { readFileSync } from 'node:fs'

interface Entry {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly data_offsets: readonly [begin: number, end: number]
}

/** The bytes of each tensor of a safetensors file, with dtype and shape; read without the codec. */
export function tensorsOf(
  path: string,
): Record<string, { dtype: string; shape: readonly number[]; hex: string }> {
  const bytes = readFileSync(path)
  const start = 8 + Number(bytes.readBigUInt64LE(0))
  const { __metadata__, ...entries } = JSON.parse(bytes.toString('utf8', 8, start))
  const described = Object.entries(entries as Record<string, Entry>)
  return Object.fromEntries(
    described.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [begin, end],
        },
      ]) => {
        const hex = bytes.toString('hex', start + begin, start + end)
        return [name, { dtype, shape, hex }] as const
      },
    ),
  )
}
