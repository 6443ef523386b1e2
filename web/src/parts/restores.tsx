// Restores under way, and what became of those that have ended.

import { Button, Card, Group, List, Stack, Text, Title } from "@mantine/core";
import { useState } from "react";

import type { RestoreReport } from "../api/model";
import { useCancelRestore, useRestores } from "../api/queries";
import { bytes, counted } from "../lib/format";
import { WorkBar } from "./bar";
import { Dot, FileName, Trouble } from "./basics";

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

function One({ report }: { report: RestoreReport }) {
  const cancel = useCancelRestore();
  if (report.state === "running") {
    return (
      <Stack gap="xs">
        <WorkBar label={`Restore ${report.id}`} done={report.bytes_done} total={report.bytes_total} />
        <Group justify="space-between">
          <Text size="sm" c="dimmed">
            {report.entries_done} of {counted(report.entries_total, "entry", "entries")}
          </Text>
          <Button size="xs" loading={cancel.isPending} onClick={() => cancel.mutate(report.id)}>
            Stop
          </Button>
        </Group>
        <Trouble error={cancel.error} />
      </Stack>
    );
  }
  const isGood = report.state === "done";
  const [tone, text] = isGood
    ? (["good", "is done"] as const)
    : report.state === "cancelled"
      ? (["quiet", "was stopped; begun again, it goes on where it was"] as const)
      : (["bad", "failed"] as const);
  return (
    <Stack gap={4}>
      <Dot tone={tone}>
        Restore {report.id} {text}: {counted(report.entries_done, "entry", "entries")}, {bytes(report.bytes_done)}.
      </Dot>
      {report.error && <Trouble error={report.error} />}
      <Names title="Were there already, and were left alone" names={report.in_the_way} />
      <Names title="Could not be restored" names={report.failed} />
      <Names title="Not in the version" names={report.not_found} />
      <Names title="Restored, but not with all that belongs to them" names={report.not_set} />
      <Names title="Are never made again" names={report.skipped} />
      {report.is_cut_short && <Text size="sm">There are more than are listed.</Text>}
    </Stack>
  );
}

export function Restores() {
  const restores = useRestores();
  const [hidden, setHidden] = useState<ReadonlySet<number>>(new Set());
  const shown = (restores.data ?? []).filter((report) => !hidden.has(report.id)).reverse();
  const ended = shown.filter((report) => report.state !== "running");
  if (shown.length === 0) return null;
  return (
    <Card withBorder component="section" aria-label="Restores" aria-live="polite">
      <Group justify="space-between" mb="xs">
        <Title order={2} size="h4">
          Restores
        </Title>
        {ended.length > 0 && (
          <Button
            size="compact-sm"
            onClick={() => setHidden(new Set([...hidden, ...ended.map((report) => report.id)]))}
          >
            Hide those that have ended
          </Button>
        )}
      </Group>
      <Stack gap="md">
        {shown.slice(0, 10).map((report) => (
          <One key={report.id} report={report} />
        ))}
      </Stack>
    </Card>
  );
}
