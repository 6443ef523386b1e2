// The frame around the pages: navigation, theme, sign-out, and the warning that
// the program does not answer.

import {
  ActionIcon,
  AppShell,
  Burger,
  Group,
  Loader,
  Text,
  Tooltip,
  useComputedColorScheme,
  useMantineColorScheme,
} from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { notifications } from "@mantine/notifications";
import {
  IconCloudDownload,
  IconDevices,
  IconFolders,
  IconHistory,
  IconLayoutDashboard,
  IconListDetails,
  IconLogout,
  IconMoon,
  IconSettings,
  IconSun,
} from "@tabler/icons-react";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Suspense, useEffect } from "react";
import { NavLink, Route, Routes, useLocation } from "react-router";

import { signOut, Unreachable } from "./api/client";
import { useIsLive, useLive, useReceipts } from "./api/live";
import type { Session } from "./api/model";
import { useSession, useStatus } from "./api/queries";
import { ErrorBox, When } from "./parts/basics";
import { Devices } from "./pages/devices";
import { Events } from "./pages/events";
import { Folders } from "./pages/folders";
import { Overview } from "./pages/overview";
import { Restore } from "./pages/restore";
import { Server } from "./pages/server";
import { Settings } from "./pages/settings";
import { SignIn } from "./pages/signin";

const PAGES = [
  { to: "/", name: "Overview", icon: IconLayoutDashboard },
  { to: "/folders", name: "Folders", icon: IconFolders },
  { to: "/restore", name: "Restore", icon: IconHistory },
  { to: "/server", name: "Backup server", icon: IconCloudDownload },
  { to: "/devices", name: "Devices", icon: IconDevices },
  { to: "/settings", name: "Settings", icon: IconSettings },
  { to: "/events", name: "Events and logs", icon: IconListDetails },
];

function ThemeSwitch() {
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme("light");
  const other = scheme === "dark" ? "light" : "dark";
  return (
    <Tooltip label={`Use the ${other} theme`}>
      <ActionIcon
        variant="subtle"
        color="gray"
        size="lg"
        aria-label={`Use the ${other} theme`}
        onClick={() => setColorScheme(other)}
      >
        {scheme === "dark" ? <IconSun size={20} /> : <IconMoon size={20} />}
      </ActionIcon>
    </Tooltip>
  );
}

/** Ends the session and removes all loaded data from the page's memory. */
function SignOut() {
  const client = useQueryClient();
  const leave = useMutation({
    mutationFn: signOut,
    onSuccess: () => {
      client.setQueryData<Session>(["session"], { signed_in: false });
      client.removeQueries({ predicate: (query) => query.queryKey[0] !== "session" });
    },
    onError: (error) =>
      notifications.show({ message: `Sign-out failed: ${error.message}`, color: "red.9" }),
  });
  return (
    <Tooltip label="Sign this browser out">
      <ActionIcon
        variant="subtle"
        color="gray"
        size="lg"
        aria-label="Sign out"
        loading={leave.isPending}
        onClick={() => leave.mutate()}
      >
        <IconLogout size={20} />
      </ActionIcon>
    </Tooltip>
  );
}

/** Warns while the program does not answer, with the time of its last answer. */
function Connection() {
  const status = useStatus();
  const live = useIsLive();
  const isLost = status.failureCount > 0 || status.isError;
  const since = status.dataUpdatedAt > 0 ? new Date(status.dataUpdatedAt) : undefined;
  return (
    <div role="status" aria-live="polite">
      {isLost && (
        <div className="band band-bad" style={{ marginBottom: 20 }}>
          <Text fw={600}>
            Archivist on this computer does not answer
            {since && (
              <>
                . Last answer: <When at={since} />
              </>
            )}
            .
          </Text>
          <Text size="sm">
            This page shows the last known state. It retries every one or two seconds and continues
            automatically. If Archivist has stopped, start it with <code>archivist daemon</code>.
          </Text>
        </div>
      )}
      {!isLost && !live && status.isSuccess && (
        <Text size="xs" c="dimmed" mb="xs">
          Live events are not available at the moment. The page updates every 1.5 seconds instead.
        </Text>
      )}
    </div>
  );
}

function Shell() {
  useLive();
  const [isOpen, { toggle, close }] = useDisclosure();
  const location = useLocation();
  const status = useStatus();
  useReceipts(status.data);
  useEffect(close, [location.pathname, close]);
  return (
    <AppShell
      header={{ height: 56 }}
      navbar={{ width: 240, breakpoint: "sm", collapsed: { mobile: !isOpen } }}
      padding={{ base: "sm", sm: "lg" }}
    >
      <a className="skip" href="#content">
        Skip to the content
      </a>
      <AppShell.Header>
        <Group h="100%" px="md" justify="space-between" wrap="nowrap">
          <Group gap="sm" wrap="nowrap">
            <Burger
              opened={isOpen}
              onClick={toggle}
              hiddenFrom="sm"
              size="sm"
              aria-label="Show the pages"
              aria-expanded={isOpen}
            />
            <img src="/ui/icon.svg" alt="" width={28} height={28} />
            <Text fw={700} size="lg">
              Archivist
            </Text>
          </Group>
          <Group gap="xs" wrap="nowrap">
            <Text size="sm" c="dimmed" visibleFrom="xs">
              {status.data && `Version ${status.data.version}`}
            </Text>
            <ThemeSwitch />
            <SignOut />
          </Group>
        </Group>
      </AppShell.Header>
      <AppShell.Navbar p="sm" aria-label="Pages">
        {PAGES.map(({ to, name, icon: Icon }) => (
          <NavLink key={to} to={to} end={to === "/"} className="nav-link">
            <Icon size={20} aria-hidden />
            {name}
          </NavLink>
        ))}
      </AppShell.Navbar>
      <AppShell.Main id="content" tabIndex={-1}>
        <div style={{ maxWidth: 1100, margin: "0 auto" }}>
          <Connection />
          <Suspense fallback={<Loader aria-label="Loading" />}>
            <Routes>
              <Route path="/" element={<Overview />} />
              <Route path="/folders" element={<Folders />} />
              <Route path="/restore" element={<Restore />} />
              <Route path="/server" element={<Server />} />
              <Route path="/devices" element={<Devices />} />
              <Route path="/settings" element={<Settings />} />
              <Route path="/events" element={<Events />} />
              <Route path="*" element={<ErrorBox error="This page does not exist." />} />
            </Routes>
          </Suspense>
        </div>
      </AppShell.Main>
    </AppShell>
  );
}

/** The pages if this browser is signed in, else the sign-in page. */
export function App() {
  const session = useSession();
  if (session.data) return session.data.signed_in ? <Shell /> : <SignIn />;
  if (session.isError && !(session.error instanceof Unreachable)) {
    return <ErrorBox error={session.error} onRetry={() => void session.refetch()} />;
  }
  return <Waiting isLost={session.isError} onRetry={() => void session.refetch()} />;
}

/** Shown until the first answer arrives. */
function Waiting({ isLost, onRetry }: { isLost: boolean; onRetry: () => void }) {
  useEffect(() => {
    if (!isLost) return;
    const timer = setInterval(onRetry, 1500);
    return () => clearInterval(timer);
  }, [isLost, onRetry]);
  return (
    <main style={{ padding: 40, textAlign: "center" }}>
      <Loader aria-label="Loading" />
      <Text mt="md" role="status">
        {isLost ? "Archivist on this computer does not answer. Retrying …" : "Loading …"}
      </Text>
    </main>
  );
}
