import type { BlobStore } from './blob-store.ts'

/** Stores a blob whose bytes, `pieces` one after the other, are in memory already. It is durable once this resolves. Rejects as the store does. */
export async function putBlob(
  blobs: BlobStore,
  key: string,
  ...pieces: readonly Uint8Array[]
): Promise<void> {
  const staged = await blobs.stage(key, inOrder(pieces))
  await staged.commit()
}

async function* inOrder(pieces: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* pieces
}
