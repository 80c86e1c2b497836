import { createHash } from 'node:crypto'
import t from 'tap'
import { headerBytes, parseLayout } from '../../../src/codec/safetensors/header.ts'
import { assembleTensors, checkShardIndex } from '../../../src/codec/safetensors/model-folder.ts'
import { FEATURES, type Folder, generateLineage } from './generated-models.ts'

/** The shards of a folder, as the codec reads them. */
function shardsOf(folder: Folder) {
  return [...folder]
    .filter(([path]) => path.endsWith('.safetensors'))
    .map(([path, bytes]) => {
      const header = bytes.subarray(0, headerBytes(bytes.subarray(0, 8), bytes.length))
      return { path, layout: parseLayout(header, bytes.length) }
    })
}

function digestOf({ base, fineTunes }: ReturnType<typeof generateLineage>): string {
  const hash = createHash('sha256')
  for (const folder of [base, ...fineTunes]) {
    for (const [path, bytes] of folder) hash.update(path).update(bytes)
  }
  return hash.digest('hex')
}

t.test('generated models are models', async t => {
  const seen = new Set<string>()
  const sizes: number[] = []
  for (let seed = 0; seed < 60; seed++) {
    const { base, fineTunes, features } = generateLineage(seed, seed % 9 === 0 ? 8 : 1)
    for (const feature of features) seen.add(feature)
    for (const folder of [base, ...fineTunes]) {
      const shards = shardsOf(folder)
      if (shards.length < 1 || shards.length > 7) t.fail(`seed ${seed}: ${shards.length} shards`)
      assembleTensors(shards)
      const index = folder.get('model.safetensors.index.json')
      if (index) checkShardIndex(index, shards)
      sizes.push(shards.reduce((sum, { layout }) => sum + layout.size, 0))
    }
  }
  t.strictSame(
    FEATURES.filter(feature => !seen.has(feature)),
    [],
    'features that no seed has',
  )
  t.ok(Math.max(...sizes) > 4_000_000 && Math.max(...sizes) < 12_000_000)
  t.ok(sizes.filter(size => size < 300_000).length > sizes.length * 0.8)
})

t.test('a seed names the same bytes, now and later', async t => {
  t.equal(digestOf(generateLineage(5, 2)), digestOf(generateLineage(5, 2)))
  t.not(digestOf(generateLineage(5, 2)), digestOf(generateLineage(6, 2)))
  const lineages = Array.from({ length: 20 }, (_, seed) => digestOf(generateLineage(seed, 1)))
  const all = createHash('sha256').update(lineages.join()).digest('hex')
  t.equal(all, 'd3ddb568aba743ae7eae695b3421a270d02e4ef10862eecfc626d71a1b87172a')
})
