import type { Catalog } from '../catalog/catalog.ts'
import type { ModelRecord } from '../catalog/records.ts'
import { RegistryError } from '../errors.ts'
import { isModelId } from './registry.ts'

/** The model that a ref names: an id, `namespace/name` (its `main`) or `namespace/name@revision`; null where there is none. */
export async function resolveRef(catalog: Catalog, ref: string): Promise<ModelRecord | null> {
  if (isModelId(ref)) return catalog.model(ref)
  const at = ref.indexOf('@')
  if (at < 0) return catalog.resolve(ref, 'main')
  return catalog.resolve(ref.slice(0, at), ref.slice(at + 1))
}

/** As {@link resolveRef}. Rejects `model-not-found`. */
export async function findRef(catalog: Catalog, ref: string): Promise<ModelRecord> {
  const record = await resolveRef(catalog, ref)
  if (record) return record
  throw new RegistryError('model-not-found', `there is no model ${ref}`)
}
