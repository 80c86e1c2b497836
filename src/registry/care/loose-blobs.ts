import { setImmediate as turn } from 'node:timers/promises'
import type { Catalog } from '../../catalog/catalog.ts'
import type { BlobRecord } from '../../catalog/records.ts'

/** Blobs listed or forgotten in one turn of the event loop: a few milliseconds. */
const BLOBS_PER_TURN = 1000

/** All known blobs that no model refers to, in turns of the event loop. Rejects as the catalog does. */
export async function unreferencedBlobs(catalog: Catalog): Promise<BlobRecord[]> {
  const found: BlobRecord[] = []
  for (;;) {
    const after = found.at(-1)?.key ?? ''
    const page = await catalog.unreferencedBlobs({ after, limit: BLOBS_PER_TURN })
    found.push(...page)
    if (page.length < BLOBS_PER_TURN) return found
    await turn()
  }
}

/** As `Catalog.forgetBlobs`, in turns of the event loop, each a transaction of its own. */
export async function forgetBlobs(
  catalog: Pick<Catalog, 'forgetBlobs'>,
  keys: readonly string[],
): Promise<string[]> {
  const forgotten: string[] = []
  for (let at = 0; at < keys.length; at += BLOBS_PER_TURN) {
    if (at > 0) await turn()
    forgotten.push(...(await catalog.forgetBlobs(keys.slice(at, at + BLOBS_PER_TURN))))
  }
  return forgotten
}
