// A field for a directory on the computer that Archivist runs on.

import { Button, Group, Loader, ScrollArea, Stack, Text, TextInput } from "@mantine/core";
import { IconArrowUp, IconFolder } from "@tabler/icons-react";
import { useEffect, useState } from "react";

import { useDirectories } from "../api/queries";
import { FileName, ErrorBox } from "./basics";

export function DirectoryPicker({
  label,
  description,
  value,
  onChange,
}: {
  label: string;
  description?: string;
  value: string;
  onChange: (path: string) => void;
}) {
  // The list follows the typed path after a pause of 300 ms.
  const [listed, setListed] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setListed(value), 300);
    return () => clearTimeout(timer);
  }, [value]);
  const found = useDirectories(listed, true);
  const directories = found.data;
  return (
    <Stack gap="xs">
      <TextInput
        label={label}
        description={description}
        placeholder={directories?.path ?? "/"}
        value={value}
        onChange={(event) => onChange(event.currentTarget.value)}
        spellCheck={false}
        autoComplete="off"
        rightSection={found.isFetching ? <Loader size="xs" aria-label="Loading" /> : undefined}
        data-autofocus
      />
      {found.isError ? (
        <ErrorBox error={found.error} />
      ) : (
        directories && (
          <>
            <Group gap="xs" wrap="nowrap">
              <Button
                size="compact-sm"
                leftSection={<IconArrowUp size={16} />}
                disabled={!directories.parent}
                onClick={() => directories.parent && onChange(directories.parent)}
              >
                Up
              </Button>
              <Text size="sm" c="dimmed" style={{ overflowWrap: "anywhere" }}>
                In <FileName name={directories.path} />
              </Text>
            </Group>
            <ScrollArea.Autosize
              mah={190}
              type="auto"
              viewportProps={{ tabIndex: 0, role: "group", "aria-label": "Directories" }}
            >
              {directories.directories.length === 0 && (
                <Text size="sm" c="dimmed">
                  No subdirectories.
                </Text>
              )}
              {directories.directories.map((directory) => (
                <button
                  key={directory.path}
                  type="button"
                  className="row-button"
                  onClick={() => onChange(directory.path)}
                >
                  <IconFolder size={18} aria-hidden />
                  <FileName name={directory.name} />
                </button>
              ))}
              {directories.is_cut_short && (
                <Text size="sm" c="dimmed">
                  More directories exist. Type the beginning of the path.
                </Text>
              )}
            </ScrollArea.Autosize>
          </>
        )
      )}
    </Stack>
  );
}
