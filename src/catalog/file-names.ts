/** The file of the catalog itself. Reports name it for a row that has changed since it was inserted. */
export const CATALOG_FILE = 'registry.sqlite'

/** The name of a model's manifest in reports. No client downloads it. */
export const MANIFEST_FILE = 'manifest'

/** The name under which a client downloads the delta of a model. */
export function deltaFilename(name: string): string {
  return `${name.replace('/', '--')}.wdelta`
}
