import java.util.List;
import okhttp3.MediaType;
import okhttp3.OkHttpClient;
import okhttp3.Protocol;
import okhttp3.Request;
import okhttp3.RequestBody;

/** Prints the status and body of each of several answers: as the client comes, and closing each connection. */
public class OkHttp {
  public static void main(String[] given) throws Exception {
    OkHttpClient client = new OkHttpClient();
    for (String connection : List.of("keep-alive", "close"))
      for (int at = 1; at < given.length; at++) {
        RequestBody body = RequestBody.create(given[at], MediaType.parse("application/json"));
        Request request = new Request.Builder().url(given[0]).header("connection", connection).post(body).build();
        try (var answer = client.newCall(request).execute()) {
          System.out.println(answer.code() + " " + answer.body().string());
        }
      }
    System.exit(0);
  }
}
