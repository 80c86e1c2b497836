/** The file of the catalog itself: what a report names where a row is not what was inserted. */
export const CATALOG_FILE = 'registry.sqlite'

/** The name that a report gives to a model's manifest, which no client ever downloads. */
export const MANIFEST_FILE = 'manifest'

/** The name under which a client downloads the delta of a model. */
export function deltaFilename(name: string): string {
  return `${name.replace('/', '--')}.wdelta`
}
