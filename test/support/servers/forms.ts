/** What stands between the parts of a form, unless it says otherwise. */
const BOUNDARY = 'xyz'

/** A multipart body of fields and files, in this order. */
export function formOf(
  entries: readonly (readonly [name: string, value: string | Buffer, filename?: string])[],
  boundary = BOUNDARY,
): Buffer {
  const parts = entries.map(([name, value, filename]) => {
    const file = filename === undefined ? '' : `; filename="${filename}"`
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${file}\r\n\r\n`
    return Buffer.concat([Buffer.from(head), Buffer.from(value as string), Buffer.from('\r\n')])
  })
  return Buffer.concat([...parts, Buffer.from(`--${boundary}--\r\n`)])
}

/** The content type of a form with the boundary that it has by default. */
export const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`
