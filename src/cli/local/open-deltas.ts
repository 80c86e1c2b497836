import { DIGEST_BYTES } from '../../codec/base/hasher.ts'
import { planCopy } from '../../codec/plan/plan.ts'
import { CliError } from '../failure.ts'
import type { LocalEngine } from './engine.ts'
import { type LocalDelta, openDelta } from './model.ts'

interface OpenedDeltas {
  readonly opened: readonly LocalDelta[]
  /** Rejects with CliError `checksum` if one of the files is damaged. */
  readonly checked: Promise<unknown>
}

/** Opens deltas and checks their structure, while the workers check their SHA-256 if `verify` is true. Rejects as `openDelta`. */
export async function openDeltas(
  local: LocalEngine,
  { paths, verify }: { paths: readonly string[]; verify: boolean },
  signal: AbortSignal,
): Promise<OpenedDeltas> {
  const opened: LocalDelta[] = []
  const checks: Promise<void>[] = []
  for (const path of paths) {
    const check = verify ? checkTrailer(local, path, signal) : Promise.resolve()
    // It is awaited last, or never if another failure comes first.
    check.catch(() => {})
    checks.push(check)
    try {
      opened.push(await openDelta(local.files, path, { checksum: false, signal }))
    } catch (error) {
      // That the file is damaged says more than how the damage shows.
      await check
      throw error
    }
  }
  const checked = Promise.all(checks)
  checked.catch(() => {})
  return { opened, checked }
}

async function checkTrailer(
  { files, engine }: LocalEngine,
  path: string,
  signal: AbortSignal,
): Promise<void> {
  const size = await files.size(path)
  const payload = size - DIGEST_BYTES
  // The reader refuses a file that is too short for one.
  if (payload < 0) return
  const trailer = await files.read({ blob: path, start: payload, end: size }, signal)
  const expected = Buffer.from(trailer).toString('hex')
  const whole = { start: 0, end: payload }
  const segments = planCopy({ blob: path, ...whole }, whole)
  const found = await (await engine).digest(segments, signal)
  if (found === expected) return
  throw new CliError(
    'checksum',
    `${path}: expected SHA-256 ${expected}, got ${found}: it is damaged`,
  )
}
