import { randomBytes } from 'node:crypto'
import { RegistryError } from '../errors.ts'

/**
 * The kinds of blobs in a store, which are the first part of their keys: the bytes of models; the manifest of each model; the tombstones of deleted
 * models; the mark of the catalog that the store belongs to; the lease of the process that writes to the store.
 */
export const BLOB_KINDS = ['blobs', 'manifests', 'tombstones', 'catalogs', 'owners'] as const
type BlobKind = (typeof BLOB_KINDS)[number]

const KEY = /^(?:blobs|manifests|tombstones|catalogs|owners)\/([0-9a-f]{2})\/\1[0-9a-f]{30,38}$/

/** A new random key of `blobs`: 32 hex digits in a folder of the first two. */
export function newBlobKey(): string {
  return blobKey('blobs', randomBytes(16).toString('hex'))
}

/** `<kind>/<2 hex>/<name>`; `name` is 32 to 40 hex digits, the first two again as a folder. */
export function blobKey(kind: BlobKind, name: string): string {
  return `${kind}/${name.slice(0, 2)}/${name}`
}

/** The kind of blob that a key is of; null for what is no key of {@link blobKey}. */
export function kindOf(key: string): BlobKind | null {
  return BLOB_KINDS.find(kind => key.startsWith(`${kind}/`)) ?? null
}

/** The name in a key of {@link blobKey}. */
export function nameOfKey(key: string): string {
  return key.slice(key.lastIndexOf('/') + 1)
}

/** True for what {@link blobKey} makes. */
export function isBlobKey(key: string): boolean {
  return KEY.test(key)
}

/** @throws RegistryError `storage-failed` for anything but a key of {@link blobKey}: no path may leave the store. */
export function checkBlobKey(key: string): void {
  if (isBlobKey(key)) return
  throw new RegistryError('storage-failed', `${JSON.stringify(key)} is not the key of a blob`)
}
