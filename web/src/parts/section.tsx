// A card with a heading: one part of a page.

import { Card, Group, Stack, Text, Title } from "@mantine/core";
import type { ReactNode } from "react";

/** One part of a page. `label` names it for assistive technology if the title is too long;
 * `action` is at the end of the line of the title, `lead` below the title. */
export function Section({
  title,
  label = title,
  lead,
  action,
  children,
}: {
  title: string;
  label?: string;
  lead?: ReactNode;
  action?: ReactNode;
  children: ReactNode;
}) {
  return (
    <Card withBorder component="section" aria-label={label}>
      <Stack gap={2} mb="sm">
        <Group justify="space-between">
          <Title order={2} size="h4">
            {title}
          </Title>
          {action}
        </Group>
        {lead && (
          <Text size="sm" c="dimmed">
            {lead}
          </Text>
        )}
      </Stack>
      {children}
    </Card>
  );
}
