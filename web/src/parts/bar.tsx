// Progress of a running job: amount, rate, time left.

import { Group, Progress, Text } from "@mantine/core";
import { useEffect, useRef, useState } from "react";

import { bytes, duration } from "../lib/format";
import { RateMeter } from "../lib/rate";

export function WorkBar({
  label,
  done,
  total,
  unit = "bytes",
}: {
  label: string;
  done: number;
  total: number;
  unit?: "bytes" | "items";
}) {
  const meter = useRef(new RateMeter());
  const [left, setLeft] = useState<{ rate?: number; seconds?: number }>({});
  useEffect(() => {
    meter.current.note(Date.now(), done);
    setLeft({ rate: meter.current.perSecond(), seconds: meter.current.secondsLeft(total) });
  }, [done, total]);
  const percent = total > 0 ? Math.min(100, (done / total) * 100) : 0;
  const amount = unit === "bytes" ? `${bytes(done)} of ${bytes(total)}` : `${done} of ${total}`;
  return (
    <div>
      <Group justify="space-between" gap="xs">
        <Text size="sm">{label}</Text>
        <Text size="sm" c="dimmed">
          {amount}
          {unit === "bytes" && left.rate ? ` · ${bytes(Math.round(left.rate))}/s` : ""}
          {left.seconds !== undefined && done < total ? ` · ${duration(left.seconds)} left` : ""}
        </Text>
      </Group>
      <Progress value={percent} aria-label={label} mt={4} />
    </div>
  );
}
