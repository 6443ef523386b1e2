// The running restores, and the results of finished ones.

import { Button, Group, List, Stack, Text } from "@mantine/core";
import { useState } from "react";

import type { RestoreReport } from "../api/model";
import { useCancelRestore, useRestores } from "../api/queries";
import { bytes, counted, visibleName } from "../lib/format";
import { inOrder } from "../lib/restores";
import type { Tone } from "../lib/words";
import { WorkBar } from "./bar";
import { Announce, Dot, FileName, ErrorBox } from "./basics";
import { Section } from "./section";

function Names({ title, names }: { title: string; names: string[] }) {
  if (names.length === 0) return null;
  return (
    <details>
      <summary style={{ cursor: "pointer" }}>
        {title}: {names.length}
      </summary>
      <List size="sm" mt={4} style={{ maxHeight: 200, overflowY: "auto" }}>
        {names.map((name, index) => (
          <List.Item key={`${index} ${name}`}>
            <FileName name={name} />
          </List.Item>
        ))}
      </List>
    </details>
  );
}

/** Returns the colour and the result of a restore that has ended. */
function outcome(report: RestoreReport): [Tone, string] {
  if (report.state === "done") return ["good", "finished"];
  if (report.state === "cancelled") return ["quiet", "was stopped"];
  return ["bad", "failed"];
}

function One({ report }: { report: RestoreReport }) {
  const cancel = useCancelRestore();
  if (report.state === "running") {
    return (
      <Stack gap="xs">
        <WorkBar
          label={`Restore ${report.id}`}
          done={report.bytes_done}
          total={report.bytes_total}
        />
        <Group justify="space-between">
          <Text size="sm" c="dimmed">
            {report.entries_done} of {counted(report.entries_total, "entry", "entries")}
          </Text>
          <Button size="xs" loading={cancel.isPending} onClick={() => cancel.mutate(report.id)}>
            Stop
          </Button>
        </Group>
        <ErrorBox error={cancel.error} />
      </Stack>
    );
  }
  const [tone, text] = outcome(report);
  return (
    <Stack gap={4}>
      <Dot tone={tone}>
        Restore {report.id} {text}: {counted(report.entries_done, "entry", "entries")},{" "}
        {bytes(report.bytes_done)}.
        {report.state === "cancelled" && " To continue, start the same restore again."}
      </Dot>
      {report.error && <ErrorBox error={report.error} />}
      {report.is_part && (
        <Text size="sm">
          The snapshot is only a part of the folder: its first scan had not ended.
        </Text>
      )}
      {report.passed_over && <Text size="sm">{visibleName(report.passed_over)}</Text>}
      {(report.owners_not_set ?? 0) > 0 && (
        <Text size="sm">
          {counted(report.owners_not_set ?? 0, "entry belongs", "entries belong")} to another owner
          than in the snapshot. Only an instance that runs as root can set owners.
        </Text>
      )}
      <Names title="Already existed, not replaced" names={report.in_the_way} />
      <Names title="Could not be restored" names={report.failed} />
      <Names title="Not in the snapshot" names={report.not_found} />
      <Names title="Restored without all attributes" names={report.not_set} />
      <Names title="Skipped" names={report.skipped} />
      {report.is_cut_short && <Text size="sm">More entries are affected than are listed.</Text>}
    </Stack>
  );
}

/** Number of restores shown at a time. */
const SHOWN = 10;

export function Restores() {
  const restores = useRestores();
  const [hidden, setHidden] = useState<ReadonlySet<number>>(new Set());
  const [limit, setLimit] = useState(SHOWN);
  const shown = inOrder(restores.data ?? []).filter((report) => !hidden.has(report.id));
  const ended = shown.filter((report) => report.state !== "running");
  if (shown.length === 0) return null;
  return (
    <Section
      title="Restores"
      action={
        ended.length > 0 && (
          <Button
            size="compact-sm"
            onClick={() => setHidden(new Set([...hidden, ...ended.map((report) => report.id)]))}
          >
            Clear finished
          </Button>
        )
      }
    >
      {ended[0] && <Announce text={`Restore ${ended[0].id} ${outcome(ended[0])[1]}.`} />}
      <Stack gap="md">
        {shown.slice(0, limit).map((report) => (
          <One key={report.id} report={report} />
        ))}
        {shown.length > limit && (
          <Button style={{ alignSelf: "flex-start" }} onClick={() => setLimit(limit + SHOWN)}>
            Show more of {shown.length}
          </Button>
        )}
      </Stack>
    </Section>
  );
}
