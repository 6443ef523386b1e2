// The regular reading of the stored data, and the damage that was found.

import { Group, Stack, Text } from "@mantine/core";

import type { Integrity } from "../api/model";
import { counted } from "../lib/format";
import { Dot, FileName, Id, When } from "./basics";
import { Section } from "./section";

export function StoredData({ integrity }: { integrity: Integrity }) {
  const { scrub, healing } = integrity;
  const percent =
    scrub.bytes > 0 ? Math.floor((scrub.scrubbed_bytes / scrub.bytes) * 100) : undefined;
  return (
    <Section title="Stored data">
      <Stack gap="xs">
        <div aria-live="polite">
          <Dot tone={healing.outstanding > 0 ? "bad" : "good"}>
            {healing.outstanding > 0
              ? `${counted(healing.outstanding, "block")} damaged or missing. Start the computer that has the files.`
              : healing.found > 0
                ? `No damage is left: ${counted(healing.healed, "damaged block")} fetched again.`
                : "No damage was found."}
          </Dot>
        </div>
        {integrity.roots_incomplete && (
          <Dot tone="bad">
            The list of snapshots is incomplete: some snapshots may be missing, and no space is
            freed. Run <code>archivist recover</code> on this computer, which finds lost snapshots.
          </Dot>
        )}
        {scrub.unreadable > 0 && (
          <Dot tone="warn">
            The disk cannot deliver {counted(scrub.unreadable, "block")}. Archivist tries again.
            Check the disk.
          </Dot>
        )}
        <Text size="sm" c="dimmed">
          {scrub.days === 0 ? (
            "Stored data is not read again: scrub_days is 0."
          ) : percent === undefined ? (
            `Stored data is read again every ${scrub.days} days. Nothing is stored yet.`
          ) : (
            <>
              {percent} % of the stored data was read again and compared within the last{" "}
              {scrub.days} days.
              {scrub.oldest && scrub.never_scrubbed === 0 && (
                <>
                  {" "}
                  Oldest reading: <When at={scrub.oldest} isRelative />.
                </>
              )}
            </>
          )}
        </Text>
        {healing.blocks.map((block) => (
          <div key={block.cid}>
            <Group gap="xs">
              <Id id={block.cid} what="the block's CID" />
              <Text size="sm">{[block.reason, block.error].filter(Boolean).join("; ")}</Text>
            </Group>
            {(block.concerns ?? []).length > 0 && (
              <Text size="sm" c="dimmed">
                needed by <FileName name={(block.concerns ?? []).join(", ")} />
              </Text>
            )}
          </div>
        ))}
      </Stack>
    </Section>
  );
}
